//! How far a shard is stored: one JSON entry for each shard in the key-value bucket `ingest`, changed by compare-and-set only.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The ingestor that owns this shard. `None`: it is free.
    pub owner: Option<String>,
    /// The stream generation that the sequences belong to.
    pub generation: u32,
    /// Every record of the shard up to this stream sequence is verified in ClickHouse.
    pub done_through: u64,
    /// The range that is being inserted.
    pub pending: Option<Pending>,
}

/// A sealed range: everything that is needed to insert it again with the same rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Stream sequences of the first and the last record, inclusive. Records of other shards are between them.
    pub first: u64,
    pub last: u64,
    /// Rows to insert: the events of the range without the dropped ones.
    pub rows: u64,
    /// Checksum of the positions and event ids of those rows. A replay with another checksum stops the shard.
    pub checksum: u32,
    /// Positions (sequence, index) that are dropped as duplicates. A replay drops the same ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<(u64, u32)>,
    /// When the range was sealed, in milliseconds since the Unix epoch. It becomes `ingested_at` of the rows, which decides their
    /// partition.
    pub sealed_at_ms: i64,
}

impl Pending {
    /// ClickHouse's deduplication token of this range.
    pub fn token(&self, stream: &str, generation: u32, shard: u16) -> String {
        format!("{stream}/{generation}/{shard}/{}-{}", self.first, self.last)
    }
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has only numbers and text")
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

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
    /// The newest stored range that has rows. If ClickHouse lacks rows of it, ClickHouse lost rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<StoredRange>,
    /// ClickHouse may lack rows of records from this sequence on, up to `done_through`. The owner stores them again before it
    /// reads new records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_from: Option<u64>,
    /// Records whose rows ClickHouse lost after they had left the stream, until an operator accepts the loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRange>,
}

/// A range whose rows were verified in ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRange {
    /// Stream sequences, inclusive.
    pub first: u64,
    pub last: u64,
    pub rows: u64,
    /// `ingested_at` of its rows, in milliseconds since the Unix epoch.
    pub sealed_at_ms: i64,
}

/// Records that neither ClickHouse nor the stream has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// Stream sequences, inclusive.
    pub first: u64,
    pub last: u64,
    /// When the loss was found, in milliseconds since the Unix epoch.
    pub found_at_ms: i64,
}

/// How far a shard was trimmed: one JSON entry for each shard, beside its manifest. Written before records are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    pub generation: u32,
    /// Records up to this sequence may be gone, except the last record of a lane.
    pub through: u64,
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

impl Trimmed {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it has only numbers")
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
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

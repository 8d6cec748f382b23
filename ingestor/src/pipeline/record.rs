//! A record as it was read and decoded.

use schema::{RunId, UsageEvent};
use tokio::sync::OwnedSemaphorePermit;

/// An open, fence, close or undecodable record has no events: it only moves the range forward.
#[derive(Debug)]
pub struct Record {
    pub seq: u64,
    pub run_id: RunId,
    pub events: Vec<UsageEvent>,
    /// Bytes of its message.
    pub bytes: u64,
    /// When the stream stored it, in milliseconds since the Unix epoch.
    pub stored_ms: i64,
    /// Its share of the memory that all shards share.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Record {
    /// Its events with their indices.
    pub fn indexed(&self) -> impl Iterator<Item = (u32, &UsageEvent)> {
        (0u32..).zip(&self.events)
    }
}

//! Checks, before rows are sent, that this ingestor still owns the shard.

use std::time::{Duration, Instant};

use crate::{manifests::Manifests, stop::Stop};

/// A manifest that was written or read longer ago than this is read again before rows are sent: an ingestor that was paused
/// for longer may have lost the shard.
pub const TRUSTED_FOR: Duration = Duration::from_secs(3);

/// The right to insert: the manifest still has the revision that this ingestor wrote.
pub struct Fence<'a> {
    manifests: &'a Manifests,
    shard: u16,
    revision: u64,
    seen_at: Instant,
}

impl<'a> Fence<'a> {
    /// The manifest was written, or read, at `seen_at`.
    pub fn new(manifests: &'a Manifests, shard: u16, revision: u64, seen_at: Instant) -> Self {
        Self {
            manifests,
            shard,
            revision,
            seen_at,
        }
    }

    /// Fails with [`Stop::Lost`] if another ingestor wrote the manifest. Reads the manifest only if the last look is too old.
    pub async fn check(&mut self) -> Result<(), Stop> {
        if self.seen_at.elapsed() < TRUSTED_FOR {
            return Ok(());
        }
        let asked_at = Instant::now();
        if !self.manifests.is_at(self.shard, self.revision).await? {
            return Err(Stop::Lost);
        }
        self.seen_at = asked_at;
        Ok(())
    }
}

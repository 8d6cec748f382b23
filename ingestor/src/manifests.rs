//! The shards' manifests in their bucket. Changed by compare-and-set on the revision; read from the bucket's leader.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use schema::{Manifest, names};
use service::Backoff;
use tracing::warn;

/// How long a write of unknown outcome is looked into before the caller starts anew.
const RESOLVE_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Manifests {
    bucket: Store,
}

/// A manifest and the revision it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub manifest: Manifest,
    pub revision: u64,
    /// Just before it was written: since then nobody else had written.
    pub at: Instant,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody else wrote: what we know of the shard is void.
    #[error("somebody else changed the manifest")]
    Lost,
    /// The outcome is unknown. Read again before anything else.
    #[error("writing the manifest: {0:#}")]
    Trouble(anyhow::Error),
}

impl Manifests {
    pub fn new(bucket: Store) -> Self {
        Self { bucket }
    }

    /// The manifest, and the revision to write with: 0 where there never was one.
    pub async fn read(&self, shard: u16) -> Result<(Option<Manifest>, u64)> {
        let entry = self
            .bucket
            .entry(names::manifest_key(shard))
            .await
            .with_context(|| format!("reading the manifest of shard {shard}"))?;
        match entry {
            None => Ok((None, 0)),
            Some(entry) if entry.operation != Operation::Put => Ok((None, entry.revision)),
            Some(entry) => {
                let manifest = Manifest::decode(&entry.value)
                    .with_context(|| format!("the manifest of shard {shard} is no manifest"))?;
                Ok((Some(manifest), entry.revision))
            }
        }
    }

    /// Whether the manifest still has this revision.
    pub async fn is_at(&self, shard: u16, revision: u64) -> Result<bool> {
        Ok(self.read(shard).await?.1 == revision)
    }

    /// Writes over `revision`, and says which revision it has now. An unknown outcome is resolved by reading: a manifest is
    /// either ours, or it was not written.
    pub async fn write(&self, shard: u16, manifest: Manifest, revision: u64) -> Result<Held, WriteError> {
        let at = Instant::now();
        let resolve = self.write_resolved(shard, &manifest, revision);
        match tokio::time::timeout(RESOLVE_WITHIN, resolve).await {
            Ok(Ok(revision)) => Ok(Held { manifest, revision, at }),
            Ok(Err(lost)) => Err(lost),
            Err(_) => Err(WriteError::Trouble(anyhow::anyhow!("no outcome in {RESOLVE_WITHIN:?}"))),
        }
    }

    async fn write_resolved(&self, shard: u16, manifest: &Manifest, revision: u64) -> Result<u64, WriteError> {
        let (key, value) = (names::manifest_key(shard), manifest.encode());
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match self.bucket.update(&key, value.clone().into(), revision).await {
                Ok(written) => return Ok(written),
                Err(error) if backoff.tries() == 0 && error.kind() == UpdateErrorKind::WrongLastRevision => {
                    return Err(WriteError::Lost);
                }
                Err(error) => warn!(shard, "writing the manifest: {error}: reading it"),
            }
            // A write that timed out may still be on its way. Should it land later, it is this same content over this same
            // revision: the one or the other, never both.
            tokio::time::sleep(backoff.next_delay()).await;
            match self.read(shard).await {
                Ok((_, now)) if now == revision => {}
                Ok((Some(other), now)) if other == *manifest => return Ok(now),
                Ok(_) => return Err(WriteError::Lost),
                Err(error) => warn!(shard, "{error:#}"),
            }
        }
    }
}

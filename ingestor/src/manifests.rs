//! The manifests of the shards in their bucket: changed by compare-and-set on the revision, read from the bucket's leader.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use protocol::compare_and_set::{Next, UpdateOutcome, Write, WriteOutcome, is_held};
use schema::{Manifest, manifest::Trimmed, names};
use service::Backoff;
use tracing::warn;

/// How long a write with an unknown outcome is resolved before the caller starts again.
const RESOLVE_WITHIN: Duration = Duration::from_secs(30);
/// How often a manifest is read again because an ingestor still writes it.
const WRITES_MAX: u32 = 10;

#[derive(Clone, Debug)]
pub struct Manifests {
    bucket: Store,
}

/// A manifest and the revision it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub manifest: Manifest,
    pub revision: u64,
    /// Just before the write. At this time no one else had written.
    pub at: Instant,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Another ingestor wrote: our state of the shard is outdated.
    #[error("another ingestor changed the manifest")]
    Lost,
    /// The outcome is unknown. Read the manifest again before anything else.
    #[error("writing the manifest: {0:#}")]
    Trouble(anyhow::Error),
}

impl Manifests {
    pub fn new(bucket: Store) -> Self {
        Self { bucket }
    }

    /// The manifest, and the revision to write over: 0 if there never was one.
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
                    .with_context(|| format!("the manifest of shard {shard} cannot be decoded"))?;
                Ok((Some(manifest), entry.revision))
            }
        }
    }

    /// Changes a manifest from outside. Its owner then loses the shard, and claims it again. `change` returns `None` if there is
    /// nothing to change.
    pub async fn change(
        &self,
        shard: u16,
        change: impl Fn(Option<Manifest>) -> Option<Manifest>,
    ) -> Result<Option<Held>> {
        for _ in 0..WRITES_MAX {
            let (before, revision) = self.read(shard).await?;
            let Some(manifest) = change(before) else {
                return Ok(None);
            };
            match self.write(shard, manifest, revision).await {
                Ok(held) => return Ok(Some(held)),
                Err(WriteError::Lost) => {}
                Err(trouble) => return Err(trouble.into()),
            }
        }
        bail!(
            "an ingestor keeps writing {}: stop all ingestors first",
            names::manifest_key(shard)
        )
    }

    /// How far the shard was trimmed.
    pub async fn trimmed(&self, shard: u16) -> Result<Trimmed> {
        let entry = self.bucket.get(names::trimmed_key(shard)).await;
        match entry.with_context(|| format!("reading how far shard {shard} was trimmed"))? {
            None => Ok(Trimmed::default()),
            Some(bytes) => Trimmed::decode(&bytes)
                .with_context(|| format!("the entry {} cannot be decoded", names::trimmed_key(shard))),
        }
    }

    /// Call it before records are removed. It never lowers the sequence.
    pub async fn trim(&self, shard: u16, trimmed: Trimmed) -> Result<()> {
        let before = self.trimmed(shard).await?;
        if before.generation == trimmed.generation && before.through >= trimmed.through {
            return Ok(());
        }
        let put = self
            .bucket
            .put(names::trimmed_key(shard), trimmed.encode().into())
            .await;
        put.with_context(|| format!("writing how far shard {shard} is trimmed"))?;
        Ok(())
    }

    /// Whether the manifest still has this revision.
    pub async fn is_at(&self, shard: u16, revision: u64) -> Result<bool> {
        Ok(is_held(revision, self.read(shard).await?.1))
    }

    /// Writes over `revision`, and returns the new revision. Resolves an unknown outcome by reading: the manifest is either the
    /// new one, or it was not written.
    pub async fn write(&self, shard: u16, manifest: Manifest, revision: u64) -> Result<Held, WriteError> {
        let at = Instant::now();
        let resolve = self.write_resolved(shard, &manifest, revision);
        match tokio::time::timeout(RESOLVE_WITHIN, resolve).await {
            Ok(Ok(revision)) => Ok(Held { manifest, revision, at }),
            Ok(Err(lost)) => Err(lost),
            Err(_) => Err(WriteError::Trouble(anyhow::anyhow!(
                "no outcome within {RESOLVE_WITHIN:?}"
            ))),
        }
    }

    async fn write_resolved(&self, shard: u16, manifest: &Manifest, revision: u64) -> Result<u64, WriteError> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut write = Write::over(revision);
        let mut next = Next::Update;
        loop {
            next = match next {
                Next::Update => write.updated(self.update(shard, manifest, revision).await),
                Next::Read => {
                    tokio::time::sleep(backoff.next_delay()).await;
                    match self.read(shard).await {
                        Ok((found, now)) => write.read(manifest, found.as_ref(), now),
                        Err(error) => {
                            warn!(shard, "{error:#}");
                            Next::Read
                        }
                    }
                }
                Next::Done(WriteOutcome::Written { revision }) => return Ok(revision),
                Next::Done(WriteOutcome::Lost) => return Err(WriteError::Lost),
            };
        }
    }

    /// One attempt.
    async fn update(&self, shard: u16, manifest: &Manifest, revision: u64) -> UpdateOutcome {
        let key = names::manifest_key(shard);
        match self.bucket.update(&key, manifest.encode().into(), revision).await {
            Ok(revision) => UpdateOutcome::Written { revision },
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => UpdateOutcome::WrongRevision,
            Err(error) => {
                warn!(shard, "could not write the manifest, reading it: {error}");
                UpdateOutcome::Unclear
            }
        }
    }
}

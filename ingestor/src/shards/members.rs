//! The membership of this ingestor: its entry in the bucket of members, and its view of the others.
//! [`protocol::members`] decides who is gone and who should own which shard.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_nats::jetstream::kv::Store;
use futures_util::TryStreamExt;
use protocol::members::MemberView;
use uuid::Uuid;

#[derive(Debug)]
pub struct Members {
    bucket: Store,
    me: String,
    pub view: MemberView,
}

impl Members {
    /// A new member. Each start has its own id.
    pub fn new(bucket: Store, ttl: Duration) -> Self {
        Self {
            bucket,
            me: Uuid::now_v7().to_string(),
            view: MemberView::new(ttl),
        }
    }

    pub fn me(&self) -> &str {
        &self.me
    }

    /// Renews our entry and reads the entries of the others.
    pub async fn meet(&mut self) -> Result<()> {
        self.bucket
            .put(&self.me, Default::default())
            .await
            .context("renewing the membership")?;
        let prefix = self.bucket.prefix.clone();
        let present = self
            .bucket
            .stream
            .info_with_subjects(format!("{prefix}>"))
            .await
            .context("reading the other members")?
            .map_ok(|(subject, _)| subject.strip_prefix(&prefix).unwrap_or(&subject).to_owned())
            .try_collect()
            .await
            .context("reading the other members")?;
        self.view.look(present, Instant::now());
        Ok(())
    }

    /// Removes our entry, so that the others need not wait for it to expire.
    pub async fn leave(&self) -> Result<()> {
        let subject = format!("{}{}", self.bucket.prefix, self.me);
        self.bucket
            .stream
            .purge()
            .filter(subject)
            .await
            .context("removing the membership")?;
        Ok(())
    }

    /// The shards that this ingestor should own.
    pub fn shards(&self, shards: u16) -> BTreeSet<u16> {
        self.view.shards_of(&self.me, shards)
    }
}

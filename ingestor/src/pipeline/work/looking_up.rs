//! Holds records that were cut, while ClickHouse is asked which of their events it has.

use std::{future::pending, pin::Pin, time::Duration};

use protocol::duplicates::{Question, SealedAt};
use service::Backoff;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::{
    ingest::Ingest,
    metrics,
    pipeline::{record::Record, stored_before},
};

pub(super) struct LookingUp<'a> {
    pub records: Vec<Record>,
    pub permit: Option<OwnedSemaphorePermit>,
    stored: Pin<Box<dyn Future<Output = SealedAt> + Send + 'a>>,
}

impl<'a> LookingUp<'a> {
    /// Asks until ClickHouse answers. Meanwhile newer records stay in the stream.
    pub(super) fn start(
        ingest: &'a Ingest,
        generation: u32,
        shard: u16,
        question: Question,
        records: Vec<Record>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let stored = Box::pin(async move {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            loop {
                match stored_before::ask(&ingest.store.verifier, generation, shard, &question).await {
                    Ok(stored) => {
                        let asked = ingest.metrics.ids_asked.get_or_create(&metrics::Shard { shard });
                        asked.inc_by(question.ids.len() as u64);
                        ingest.store.health.up("inserts");
                        return stored;
                    }
                    Err(trouble) => {
                        ingest.store.health.down("inserts", format!("{trouble:#}"));
                        let delay = backoff.next_delay();
                        warn!(shard, "ClickHouse: {trouble:#}: retrying in {delay:.1?}");
                        tokio::time::sleep(delay).await;
                    }
                }
            }
        });
        Self {
            records,
            permit,
            stored,
        }
    }
}

/// The events that were stored before. Pends while nothing is looked up.
pub(super) async fn answered(looking_up: &mut Option<LookingUp<'_>>) -> SealedAt {
    match looking_up {
        Some(looking_up) => looking_up.stored.as_mut().await,
        None => pending().await,
    }
}

//! Notices a shard of this ingestor that has records to store and stores none, whatever the reason.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use schema::names;
use service::Health;
use tracing::debug;

use crate::{ingest::Ingest, metrics::Shard};

const PART: &str = "storing";
const EVERY: Duration = Duration::from_secs(5);
/// The longest time that a range takes when all is well, unless `BATCH_AGE_MAX` is longer than a third of it.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// How far a shard was stored when it last moved.
#[derive(Clone, Copy, Debug)]
struct Progress {
    done_through: u64,
    since: Instant,
}

/// Runs until the service stops.
pub async fn run(ingest: Arc<Ingest>, health: Health) -> Result<()> {
    let mut all: BTreeMap<u16, Progress> = BTreeMap::new();
    let limit = STALLED_AFTER.max(3 * ingest.settings.batch.batch_age_max);
    loop {
        let ours = ingest.members.lock().await.shards(ingest.stream.shards);
        for gone in all.keys().filter(|shard| !ours.contains(shard)) {
            ingest.metrics.stalled.get_or_create(&Shard { shard: *gone }).set(0);
        }
        all.retain(|shard, _| ours.contains(shard));
        let mut stalled = Vec::new();
        for shard in ours {
            match waiting(&ingest, shard).await {
                Ok((done_through, waits)) => {
                    let fresh = Progress {
                        done_through,
                        since: Instant::now(),
                    };
                    let progress = all.entry(shard).or_insert(fresh);
                    if !waits || progress.done_through != done_through {
                        *progress = fresh;
                    }
                }
                // NATS is a part of its own.
                Err(trouble) => debug!(shard, "could not compare the shard with the stream: {trouble:#}"),
            }
            let still = all
                .get(&shard)
                .map_or(Duration::ZERO, |progress| progress.since.elapsed());
            let seconds = match still >= limit {
                true => still.as_secs(),
                false => 0,
            };
            let gauge = ingest.metrics.stalled.get_or_create(&Shard { shard }).clone();
            gauge.set(seconds.try_into().unwrap_or(i64::MAX));
            if seconds > 0 {
                stalled.push(shard.to_string());
            }
        }
        match stalled.as_slice() {
            [] => health.up(PART),
            _ => health.down(
                PART,
                format!(
                    "records wait, and none was stored for {limit:?}, in shard {}",
                    stalled.join(", ")
                ),
            ),
        }
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// How far the shard is stored, and whether later records wait.
async fn waiting(ingest: &Ingest, shard: u16) -> Result<(u64, bool)> {
    let (manifest, _) = ingest.manifests.read(shard).await?;
    let done_through = manifest.map_or(0, |manifest| manifest.done_through);
    let stream = ingest.stream.handle().await?;
    let last = stream.get_last_raw_message_by_subject(&names::shard_lanes(shard)).await;
    let last = match last {
        Ok(last) => last.sequence,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => 0,
        Err(error) => return Err(error.into()),
    };
    Ok((done_through, last > done_through))
}

//! Removes records from the stream that are stored and no longer needed for replays. Never removes a record that is not stored.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures_util::TryStreamExt;
use protocol::trim::{LaneEnd, boundary, purge_below};
use schema::{LaneRecord, names};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::{ingest::Ingest, metrics::Shard};

/// Trims the shards of this ingestor periodically.
pub async fn run(ingest: Arc<Ingest>) -> Result<()> {
    loop {
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            () = tokio::time::sleep(ingest.settings.trim_interval) => {}
        }
        for (shard, done_through) in ingest.owned.all() {
            match trim(&ingest, shard, done_through, schema::clock::now()).await {
                Ok(0) => {}
                Ok(records) => info!(shard, records, "trimmed the stream"),
                Err(error) => warn!(shard, "could not trim the stream: {error:#}"),
            }
        }
    }
}

/// Trims one shard, and returns how many records it removed.
async fn trim(ingest: &Ingest, shard: u16, done_through: u64, now: OffsetDateTime) -> Result<u64> {
    let stream = ingest.stream.handle().await?;
    let oldest_kept = now - ingest.settings.replay_window;
    let young = ingest.stream.first_since(shard, oldest_kept).await?;
    let below = boundary(ingest.stream.state().await?, done_through, young);
    let lanes: Vec<(String, usize)> = stream
        .info_with_subjects(names::shard_lanes(shard))
        .await
        .context("listing the lanes")?
        .try_collect()
        .await
        .context("listing the lanes")?;
    let mut removed = 0;
    for (lane, _) in lanes {
        let last = match stream.get_last_raw_message_by_subject(&lane).await {
            Ok(last) => last,
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => continue,
            Err(error) => return Err(error).context("reading the last record of a lane"),
        };
        let kind = LaneRecord::decode(&last.payload).ok().map(|record| record.kind);
        let end = LaneEnd::of(
            kind.as_ref(),
            last.sequence,
            // A record of the future, by another clock, has no age.
            Duration::try_from(now - last.time).unwrap_or_default(),
            ingest.settings.replay_window,
        );
        let Some(below) = purge_below(below, end) else {
            continue;
        };
        let purged = stream
            .purge()
            .filter(&lane)
            .sequence(below)
            .await
            .context("trimming a lane")?;
        removed += purged.purged;
    }
    ingest.metrics.trimmed.get_or_create(&Shard { shard }).inc_by(removed);
    Ok(removed)
}

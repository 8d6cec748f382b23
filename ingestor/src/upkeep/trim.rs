//! Removes records from the stream that are stored and no longer needed for replays. The evidence is a comparison with the rows
//! just before: rows that were verified once may be lost since.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures_util::TryStreamExt;
use protocol::trim::{LaneEnd, boundary, purge_below};
use schema::{LaneRecord, manifest::Trimmed, names};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::{ingest::Ingest, metrics::Shard, stop::Stop, upkeep::behind};

/// How long one call compares records. The next call continues.
const COMPARE_FOR: Duration = Duration::from_secs(20);

/// Trims the shards of this ingestor periodically.
pub async fn run(ingest: Arc<Ingest>) -> Result<()> {
    loop {
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            () = tokio::time::sleep(ingest.settings.trim_interval) => {}
        }
        if let Err(stop) = ingest.tables.ensure().await {
            warn!("trimming nothing: {stop}");
            continue;
        }
        for (shard, done_through) in ingest.owned.all() {
            match trim(&ingest, shard, done_through, schema::clock::now()).await {
                Ok(0) => {}
                Ok(records) => info!(shard, records, "trimmed the stream"),
                Err(stop) => warn!(shard, "could not trim the stream: {stop}"),
            }
        }
    }
}

/// Trims one shard, and returns how many records it removed.
async fn trim(ingest: &Ingest, shard: u16, done_through: u64, now: OffsetDateTime) -> Result<u64, Stop> {
    let Some(generation) = check(ingest, shard).await? else {
        return Ok(0);
    };
    let stream = ingest.stream.handle().await?;
    let oldest_kept = now - ingest.settings.replay_window;
    let young = ingest.stream.first_since(shard, oldest_kept).await?;
    let below = boundary(ingest.stream.state().await?, done_through, young);
    let (whole, report) = ingest
        .audit
        .whole_through(generation, shard, below - 1, COMPARE_FOR)
        .await?;
    if let Some(from) = report.missing_from {
        ingest.owned.set_behind(shard, from);
    }
    if report.records == 0 || whole == 0 {
        return Ok(0);
    }
    let below = below.min(whole + 1);
    let trimmed = Trimmed {
        generation,
        through: below - 1,
    };
    // Before the records are gone: it says which of them a replay cannot bring back.
    ingest.manifests.trim(shard, trimmed).await?;
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
            Err(error) => {
                return Err(anyhow::Error::from(error)
                    .context("reading the last record of a lane")
                    .into());
            }
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

/// The generation of the shard. `None`: ClickHouse lost rows of the shard, or another ingestor has it.
async fn check(ingest: &Ingest, shard: u16) -> Result<Option<u32>, Stop> {
    let manifest = ingest.manifests.read(shard).await?.0;
    let Some(manifest) = manifest.filter(|manifest| manifest.owner.as_ref() == Some(&ingest.me)) else {
        return Ok(None);
    };
    // The owner of a shard without new events does not write, so it has not noticed what others wrote.
    ingest.alarms.lost(shard, &manifest.lost);
    if let Some(from) = manifest.behind_from {
        ingest.owned.set_behind(shard, from);
        return Ok(None);
    }
    let verifier = &ingest.store.verifier;
    if let Some(newest) = &manifest.newest
        && behind::is_lacking(verifier, manifest.generation, shard, newest).await?
    {
        ingest.owned.set_behind(shard, 1);
        return Ok(None);
    }
    Ok(Some(manifest.generation))
}

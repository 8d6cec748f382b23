//! Removes from the stream what is stored and no longer needed for replays. Never anything that is not in ClickHouse.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures_util::TryStreamExt;
use schema::{LaneRecord, lane_record::Kind, names};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::{ingest::Ingest, metrics::Shard, stream::State};

/// Of the stream's bytes, in percent: above it, being stored is enough to be trimmed.
const PRESSURE: u64 = 80;

/// How long a fence stays at the least: far longer than it takes to settle its run, unless ClickHouse is away that long.
const FENCE_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Trims the shards of this ingestor, again and again.
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

/// Removes what may go of one shard, and says how many records that were.
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
            now - last.time,
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

/// The last record of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneEnd {
    /// It says where the lane stands, so it stays.
    Kept(u64),
    /// The lane ended long ago: nobody asks where it stood. A run that was fenced, and comes back after all, writes nothing:
    /// it expects a last record that is gone, and NATS refuses that as it refused it before. Should its leases not be settled
    /// by then, whoever settles them fences the empty lane anew.
    Forgotten,
}

impl LaneEnd {
    /// `kind`: of the last record, `None`: it cannot be read.
    fn of(kind: Option<&Kind>, sequence: u64, age: time::Duration, replay_window: Duration) -> Self {
        match kind {
            Some(Kind::Close) if age > replay_window => Self::Forgotten,
            Some(Kind::Fence { .. }) if age > replay_window.max(FENCE_KEPT) => Self::Forgotten,
            _ => Self::Kept(sequence),
        }
    }
}

/// The sequence to purge a lane below. `None`: nothing. Never 0, by which NATS would understand the whole lane.
fn purge_below(boundary: u64, end: LaneEnd) -> Option<u64> {
    let below = match end {
        LaneEnd::Kept(last) => boundary.min(last),
        LaneEnd::Forgotten => boundary,
    };
    (below > 1).then_some(below)
}

/// Everything below this sequence may go, a lane's last record aside.
/// `young`: the first record of the shard within the replay window.
fn boundary(stream: State, done_through: u64, young: Option<u64>) -> u64 {
    let stored = done_through + 1;
    let pressed = stream.max_bytes > 0 && stream.bytes.saturating_mul(100) > stream.max_bytes.saturating_mul(PRESSURE);
    match young {
        Some(young) if !pressed => stored.min(young),
        _ => stored,
    }
}

#[cfg(test)]
mod tests {
    use schema::BatchId;

    use super::*;

    #[test]
    fn a_lanes_last_record_stays_until_the_lane_is_forgotten() {
        assert_eq!(purge_below(50, LaneEnd::Kept(70)), Some(50));
        assert_eq!(purge_below(50, LaneEnd::Kept(30)), Some(30));
        assert_eq!(purge_below(50, LaneEnd::Forgotten), Some(50));
        for boundary in [0, 1] {
            assert_eq!(purge_below(boundary, LaneEnd::Kept(70)), None);
            assert_eq!(purge_below(boundary, LaneEnd::Forgotten), None);
        }
        assert_eq!(purge_below(50, LaneEnd::Kept(1)), None);
    }

    #[test]
    fn only_a_lane_that_ended_long_ago_is_forgotten() {
        let (open, close) = (Kind::Open, Kind::Close);
        let fence = Kind::Fence {
            last_batch: BatchId::NIL,
        };
        let batch = Kind::Batch {
            batch_id: BatchId::new(),
            events: Vec::new(),
        };
        let window = Duration::from_secs(24 * 3_600);
        let end = |kind, days| LaneEnd::of(kind, 7, time::Duration::days(days), window);
        assert_eq!(end(Some(&close), 2), LaneEnd::Forgotten);
        assert_eq!(end(Some(&close), 0), LaneEnd::Kept(7));
        // Its run has to be settled first.
        assert_eq!(end(Some(&fence), 2), LaneEnd::Kept(7));
        assert_eq!(end(Some(&fence), 8), LaneEnd::Forgotten);
        let month = Duration::from_secs(30 * 24 * 3_600);
        let kept_longer = LaneEnd::of(Some(&fence), 7, time::Duration::days(8), month);
        assert_eq!(kept_longer, LaneEnd::Kept(7));
        // A run that spools comes back for its lane, whenever that is.
        for kind in [Some(&open), Some(&batch), None] {
            assert_eq!(end(kind, 1_000), LaneEnd::Kept(7));
        }
    }

    #[test]
    fn only_what_is_stored_goes_and_only_when_it_is_old_or_room_is_scarce() {
        let stream = |bytes| State {
            generation: 1,
            last_seq: 100,
            bytes,
            max_bytes: 1_000,
        };
        assert_eq!(boundary(stream(0), 50, Some(30)), 30, "young records stay");
        assert_eq!(
            boundary(stream(0), 50, Some(70)),
            51,
            "old ones that are not stored stay"
        );
        assert_eq!(boundary(stream(0), 50, None), 51);
        assert_eq!(boundary(stream(800), 50, Some(30)), 30);
        assert_eq!(
            boundary(stream(801), 50, Some(30)),
            51,
            "above 80 % being stored is enough"
        );
        assert_eq!(
            boundary(
                State {
                    max_bytes: 0,
                    ..stream(801)
                },
                50,
                Some(30)
            ),
            30,
            "no bound, no pressure"
        );
    }
}

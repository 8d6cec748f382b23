//! Decides which records may be removed from the stream.
//!
//! # Promises
//! - Only records that are verified in ClickHouse are removed, and only when they are older than the replay window or the
//!   stream is nearly full.
//! - The last record of a lane stays until nobody can need it any more: it shows what the lane's writer has stored.
//!
//! The model `manifest` checks the property "everything that is trimmed is stored"; its mutant `TrimPending` deviates and fails.

use std::time::Duration;

use schema::lane_record::Kind;

use crate::claim::StreamState;

/// Above this percentage of the stream's bytes, stored records are trimmed whatever their age.
const PRESSURE: u64 = 80;

/// The minimum time that a fence stays: far longer than settling its run takes, unless ClickHouse is unavailable that long.
const FENCE_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The last record of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// The record stays, because it shows how far the lane is.
    Kept(u64),
    /// The lane ended long ago, so nobody needs its position. A fenced run that comes back cannot write: it expects a last
    /// record that is gone, so NATS refuses the write, as it did before. If the run's leases are not settled by then, the
    /// settling worker fences the empty lane again.
    Forgotten,
}

impl LaneEnd {
    /// `kind`: the kind of the last record. `None`: it cannot be decoded.
    pub fn of(kind: Option<&Kind>, sequence: u64, age: Duration, replay_window: Duration) -> Self {
        match kind {
            Some(Kind::Close) if age > replay_window => Self::Forgotten,
            Some(Kind::Fence { .. }) if age > replay_window.max(FENCE_KEPT) => Self::Forgotten,
            _ => Self::Kept(sequence),
        }
    }
}

/// The sequence below which to purge a lane. `None`: nothing to purge. Never 0, which NATS would take as the whole lane.
pub fn purge_below(boundary: u64, end: LaneEnd) -> Option<u64> {
    let below = match end {
        LaneEnd::Kept(last) => boundary.min(last),
        LaneEnd::Forgotten => boundary,
    };
    (below > 1).then_some(below)
}

/// Records below this sequence may be removed, except the last record of a lane.
///
/// `young`: the first record of the shard within the replay window.
pub fn boundary(stream: StreamState, done_through: u64, young: Option<u64>) -> u64 {
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
        let end = |kind, days: u64| LaneEnd::of(kind, 7, Duration::from_secs(days * 24 * 3_600), window);
        assert_eq!(end(Some(&close), 2), LaneEnd::Forgotten);
        assert_eq!(end(Some(&close), 0), LaneEnd::Kept(7));
        // Its run must be settled first.
        assert_eq!(end(Some(&fence), 2), LaneEnd::Kept(7));
        assert_eq!(end(Some(&fence), 8), LaneEnd::Forgotten);
        let month = Duration::from_secs(30 * 24 * 3_600);
        let kept_longer = LaneEnd::of(Some(&fence), 7, Duration::from_secs(8 * 24 * 3_600), month);
        assert_eq!(kept_longer, LaneEnd::Kept(7));
        // A run that spools may continue its lane at any time.
        for kind in [Some(&open), Some(&batch), None] {
            assert_eq!(end(kind, 1_000), LaneEnd::Kept(7));
        }
    }

    #[test]
    fn only_stored_records_are_trimmed_once_they_are_old_or_space_is_scarce() {
        let stream = |bytes| StreamState {
            generation: 1,
            last_seq: 100,
            bytes,
            max_bytes: 1_000,
        };
        assert_eq!(boundary(stream(0), 50, Some(30)), 30, "young records stay");
        assert_eq!(
            boundary(stream(0), 50, Some(70)),
            51,
            "old records that are not stored stay"
        );
        assert_eq!(boundary(stream(0), 50, None), 51);
        assert_eq!(boundary(stream(800), 50, Some(30)), 30);
        assert_eq!(
            boundary(stream(801), 50, Some(30)),
            51,
            "above 80 %, stored records are trimmed"
        );
        assert_eq!(
            boundary(
                StreamState {
                    max_bytes: 0,
                    ..stream(801)
                },
                50,
                Some(30)
            ),
            30,
            "a stream without a limit is never short of space"
        );
    }
}

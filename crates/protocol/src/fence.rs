//! Ends a lane for its run: appends the fence, and decides when everything before it is stored.
//!
//! A fence is the last record of a lane. It names the last batch before it, so a writer that finds the fence knows which of
//! its messages are stored ([`crate::lane::Lane::read`]).
//!
//! ```text
//! read the last record ─ a fence or a close record ─> the lane has ended there
//!                      └ anything else ─> append a fence under its sequence ─> stored: ended; else read again
//! ```
//!
//! # Promises
//! - A fence is appended under the sequence that was read, so no record is between the batch that it names and the fence.
//! - After the fence NATS refuses every message of the run. No clock decides this.
//! - Leases are counted only when ClickHouse has everything up to the end of each lane ([`is_stored`]).
//!
//! The model `lease_lane_fence` checks the property "no request is admitted past the limit". Its mutants `SettleWithoutFence`
//! and `SettleBeforeStored` skip these checks and fail.

use schema::{BatchId, Manifest};

use crate::lane::{LastRecord, Message, Seen};

/// The next step, decided by the lane's last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Append a fence that names this batch ([`BatchId::NIL`]: none), under this expected sequence.
    Append { expected: u64, last_batch: BatchId },
    /// The lane has ended at this sequence.
    Ended { sequence: u64 },
}

/// Fails if the lane's last record is not the run's own.
pub fn step(last: LastRecord) -> Result<Step, &'static str> {
    let (sequence, record) = match last {
        LastRecord::At { sequence, record } => (sequence, record),
        // Either the lane is not open yet, and after a fence it never will be. Or it ended long ago and was trimmed.
        LastRecord::None => {
            return Ok(Step::Append {
                expected: 0,
                last_batch: BatchId::NIL,
            });
        }
    };
    let append = |last_batch| {
        Ok(Step::Append {
            expected: sequence,
            last_batch,
        })
    };
    match record {
        Seen::Fence { .. } | Seen::Ours(Message::Close) => Ok(Step::Ended { sequence }),
        Seen::Ours(Message::Batch(batch)) => append(batch),
        Seen::Ours(Message::Open) => append(BatchId::NIL),
        Seen::Foreign => Err("another run has written to the lane"),
        Seen::Unreadable => Err("the lane's last record cannot be read"),
    }
}

/// Whether a shard is stored up to the sequence `end`, where a lane in it ended. `generation` and `last_sequence` belong to
/// the stream. A manifest of another stream (one before a restore or a reset) proves nothing, whatever its `done_through`
/// is. A manifest that is behind proves nothing either: ClickHouse may lack rows that it had.
pub fn is_stored(manifest: &Manifest, end: u64, generation: u32, last_sequence: u64) -> bool {
    let is_of_stream = manifest.generation == generation && manifest.done_through <= last_sequence;
    let is_there = manifest.behind_from.is_none_or(|from| end < from);
    is_of_stream && is_there && end <= manifest.done_through
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_names_the_last_batch_and_an_ended_lane_gets_no_fence() {
        let batch = BatchId::new();
        let at = |record| LastRecord::At { sequence: 7, record };
        let append = |expected, last_batch| Ok(Step::Append { expected, last_batch });
        for (last, expected) in [
            (LastRecord::None, append(0, BatchId::NIL)),
            (at(Seen::Ours(Message::Open)), append(7, BatchId::NIL)),
            (at(Seen::Ours(Message::Batch(batch))), append(7, batch)),
            (at(Seen::Ours(Message::Close)), Ok(Step::Ended { sequence: 7 })),
            (at(Seen::Fence { last_batch: batch }), Ok(Step::Ended { sequence: 7 })),
        ] {
            assert_eq!(step(last), expected, "{last:?}");
        }
        assert!(step(at(Seen::Foreign)).is_err());
        assert!(step(at(Seen::Unreadable)).is_err());
    }

    #[test]
    fn only_a_manifest_of_this_stream_proves_that_records_are_stored() {
        let manifest = |generation, done_through| Manifest {
            generation,
            done_through,
            ..Manifest::default()
        };
        for (manifest, end, stored) in [
            (manifest(2, 70), 70, true),
            (manifest(2, 70), 71, false),
            (manifest(1, 70), 70, false),
            (manifest(3, 70), 70, false),
            // The stream was restored to an older state, so it ends before its manifest, and nobody has raised the
            // generation.
            (manifest(2, 101), 70, false),
        ] {
            assert_eq!(is_stored(&manifest, end, 2, 100), stored, "{manifest:?} {end}");
        }
    }

    #[test]
    fn a_manifest_that_is_behind_proves_nothing_from_there_on() {
        let behind = Manifest {
            generation: 2,
            done_through: 70,
            behind_from: Some(50),
            ..Manifest::default()
        };
        for (end, stored) in [(49, true), (50, false), (70, false)] {
            assert_eq!(is_stored(&behind, end, 2, 100), stored, "{end}");
        }
    }
}

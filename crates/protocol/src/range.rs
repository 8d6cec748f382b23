//! Cuts and seals a range of a shard: consecutive records, without the duplicates among them.
//!
//! ```text
//! gathered records ─ cut ─> the records of one range ─ seal ─> Range: write its manifest, then store it
//!                      └ the rest waits                      └ Empty: nothing to store, the shard is done through it
//! ```
//!
//! # Promises
//! - The manifest has the sealed range before any of its rows is sent ([`progress`]). So the next owner of the shard stores the
//!   same rows under the same token.
//! - A position has a row, or it is dropped ([`has_row`]).
//! - A record is never split.
//! - A replay has the records that were sealed, or it is refused ([`check_replay`]).
//!
//! The model `manifest` seals and replays ranges with this code, over every cut. Its mutants `TokenFromFetch`,
//! `DuplicatesNotInManifest` and `DoneBeforeInsert` deviate and fail.

use schema::{EventId, Manifest, manifest::Pending};

/// The position of an event in a shard: the sequence of its record, and its index there.
pub type EventPosition = (u64, u32);

/// The maximum number of positions that are dropped from a range of more than one record. Its manifest lists them all in one
/// NATS message; 10,000 of them take at most 330 kB.
pub const DROPPED_MAX: usize = 10_000;

/// The result of sealing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// There are events to insert, or duplicates.
    Range(Pending),
    /// There are no events: the shard is done through this sequence.
    Empty(u64),
}

/// How many of the gathered records one range takes. All of them, unless their duplicates exceed [`DROPPED_MAX`]. Removes the
/// positions of the other records from `dropped`, which is in order.
pub fn cut<R>(records: &[R], seq: impl Fn(&R) -> u64, dropped: &mut Vec<EventPosition>) -> usize {
    let Some((over, _)) = dropped.get(DROPPED_MAX).copied() else {
        return records.len();
    };
    // The record that exceeds the bound is for the next range. A single record may exceed it.
    let taken = records.partition_point(|record| seq(record) < over).max(1);
    let last = records.get(taken - 1).map_or(over, seq);
    dropped.retain(|(seq, _)| *seq <= last);
    taken
}

/// Seals the records from `first` to `last`, with their `events` in order, without the `dropped` positions, which are in
/// order.
pub fn seal(
    first: u64,
    last: u64,
    events: impl Iterator<Item = (EventPosition, EventId)>,
    dropped: Vec<EventPosition>,
    sealed_at_ms: i64,
) -> Sealed {
    let pending = pending(first, last, events, dropped, sealed_at_ms);
    if is_empty(&pending) {
        Sealed::Empty(last)
    } else {
        Sealed::Range(pending)
    }
}

/// A range as its manifest has it. The parameters are those of [`seal`].
pub fn pending(
    first: u64,
    last: u64,
    events: impl Iterator<Item = (EventPosition, EventId)>,
    dropped: Vec<EventPosition>,
    sealed_at_ms: i64,
) -> Pending {
    let mut hash = crc32fast::Hasher::new();
    let mut rows = 0;
    for ((seq, idx), event) in events.filter(|(position, _)| has_row(&dropped, *position)) {
        hash.update(&seq.to_le_bytes());
        hash.update(&idx.to_le_bytes());
        hash.update(event.0.as_bytes());
        rows += 1;
    }
    Pending {
        first,
        last,
        rows,
        checksum: hash.finalize(),
        dropped,
        sealed_at_ms,
    }
}

/// There is nothing to insert.
pub fn is_empty(pending: &Pending) -> bool {
    pending.rows == 0 && pending.dropped.is_empty()
}

/// Whether the event at this position of a range gets a row. `dropped` is in order.
pub fn has_row(dropped: &[EventPosition], position: EventPosition) -> bool {
    dropped.binary_search(&position).is_err()
}

/// Compares a range with the same range from records that were read again. Fails if they are not the sealed records, because an
/// event could then be stored twice or never.
pub fn check_replay(pending: &Pending, again: &Pending) -> Result<(), String> {
    if again == pending {
        return Ok(());
    }
    Err(format!(
        "the manifest has {} rows in {}-{} (checksum {:08x}), the stream has {} in {}-{} (checksum {:08x})",
        pending.rows,
        pending.first,
        pending.last,
        pending.checksum,
        again.rows,
        again.first,
        again.last,
        again.checksum,
    ))
}

/// The next entry of a shard: it is verified through `done`, and the range `pending` is about to be stored.
pub fn progress(held: &Manifest, done: u64, pending: Option<Pending>) -> Manifest {
    Manifest {
        done_through: done,
        pending,
        ..held.clone()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn events(of: &[(u64, u32)]) -> Vec<(EventPosition, EventId)> {
        let event = |(seq, events): &(u64, u32)| {
            let seq = *seq;
            (0..*events).map(move |idx| {
                (
                    (seq, idx),
                    EventId(Uuid::from_u128(u128::from(seq) << 32 | u128::from(idx))),
                )
            })
        };
        of.iter().flat_map(event).collect()
    }

    fn sealed(first: u64, last: u64, of: &[(u64, u32)], dropped: &[EventPosition]) -> Sealed {
        seal(first, last, events(of).into_iter(), dropped.to_vec(), 5)
    }

    #[test]
    fn dropped_events_have_no_row_and_do_not_count() {
        let Sealed::Range(range) = sealed(1, 2, &[(1, 3), (2, 2)], &[(1, 1), (2, 0)]) else {
            panic!("no range")
        };
        assert_eq!((range.first, range.last, range.rows), (1, 2, 3));
        assert!(has_row(&range.dropped, (1, 0)) && !has_row(&range.dropped, (1, 1)));
        let whole = pending(1, 2, events(&[(1, 3), (2, 2)]).into_iter(), vec![], 5);
        assert_ne!(whole.checksum, range.checksum);
    }

    #[test]
    fn a_range_of_duplicates_is_stored_and_a_range_of_marks_is_not() {
        assert!(matches!(sealed(1, 2, &[(1, 1)], &[(1, 0)]), Sealed::Range(range) if range.rows == 0));
        assert_eq!(sealed(3, 9, &[], &[]), Sealed::Empty(9));
    }

    #[test]
    fn a_replay_is_equal_or_refused() {
        let range = |of: &[(u64, u32)]| pending(1, 4, events(of).into_iter(), vec![], 5);
        let first = range(&[(1, 2), (4, 3)]);
        assert_eq!(check_replay(&first, &range(&[(1, 2), (4, 3)])), Ok(()));
        for other in [
            range(&[(1, 2)]),
            range(&[(1, 3), (4, 2)]),
            range(&[(1, 2), (3, 0), (4, 4)]),
        ] {
            assert!(check_replay(&first, &other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_cut_leaves_the_record_whose_duplicates_are_too_many() {
        let half = u32::try_from(DROPPED_MAX).unwrap() / 2;
        let of = |seqs: &[u64], each: u32| -> Vec<EventPosition> {
            seqs.iter()
                .flat_map(|seq| (0..each).map(move |idx| (*seq, idx)))
                .collect()
        };
        let seq = |seq: &u64| *seq;
        let mut dropped = of(&[1, 2, 3, 4], half);
        assert_eq!(cut(&[1, 2, 3, 4], seq, &mut dropped), 2);
        assert_eq!(dropped, of(&[1, 2], half));
        let mut few = of(&[1, 2], half);
        assert_eq!((cut(&[1, 2, 5], seq, &mut few), few.len()), (3, DROPPED_MAX));
        let mut alone = of(&[1], 3 * half);
        assert_eq!((cut(&[1, 2], seq, &mut alone), alone.len()), (1, 3 * half as usize));
    }
}

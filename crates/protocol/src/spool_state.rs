//! How many of a lane's batches in the spool are already in the stream, according to the lane's last record. Used by a
//! restart.
//!
//! # Promises
//! - The batches up to the lane's last record are stored, the others are not.
//! - A lane whose last record contradicts the spool is an error, so nothing is published twice on a guess.
//!
//! The tests of [`crate::lane`] and the model `lease_lane_fence` restart processes at any moment and check that each batch is
//! stored once, in order.

use schema::BatchId;

use crate::lane::{End, Lane};

/// A batch of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spooled {
    pub batch: BatchId,
    pub empty: BatchId,
    pub expected: u64,
}

/// Goes through the batches of one lane in the spool, in order.
#[derive(Clone, Debug)]
pub struct SpoolState {
    last_sequence: u64,
    last_batch: BatchId,
    closed: bool,
    fenced: bool,
    first: Option<Spooled>,
    seen: u64,
    /// The number of batches up to the lane's last batch.
    stored: Option<u64>,
}

impl SpoolState {
    /// For a lane that was resumed from its last record.
    pub fn of(lane: &Lane) -> Self {
        let (last_sequence, last_batch) = lane.last();
        Self {
            last_sequence,
            last_batch,
            closed: lane.end() == Some(End::Closed),
            fenced: lane.end() == Some(End::Fenced),
            first: None,
            seen: 0,
            stored: None,
        }
    }

    /// The next batch in the spool.
    pub fn pass(&mut self, spooled: Spooled) {
        self.first.get_or_insert(spooled);
        self.seen += 1;
        if spooled.batch == self.last_batch && self.last_batch != BatchId::NIL {
            self.stored = Some(self.seen);
        }
    }

    /// Returns how many of the first batches are stored. Fails if the lane's last record contradicts the spool.
    pub fn stored(&self) -> Result<u64, &'static str> {
        match (self.stored, self.first) {
            (Some(stored), _) => Ok(stored),
            (None, None) => Ok(0),
            (None, Some(_)) if self.closed => Err("the lane is closed, and the spool has batches for it"),
            (None, Some(first)) if self.last_sequence < first.expected => {
                Err("the lane's last sequence went back: the stream was restored or reset")
            }
            // Only the first batch, or the empty batch in its place, was ever sent under that sequence. (A fence has its
            // own sequence, and names a batch that is not in the spool.)
            (None, Some(first))
                if first.expected != 0
                    && !self.fenced
                    && self.last_sequence != first.expected
                    && (first.empty == BatchId::NIL || self.last_batch != first.empty) =>
            {
                Err("the lane has moved on by a batch that the spool does not know")
            }
            (None, Some(_)) => Ok(0),
        }
    }
}

/// The same for a list.
#[cfg(test)]
pub fn stored_before(lane: &Lane, spool: &[Spooled]) -> Result<usize, &'static str> {
    let mut state = SpoolState::of(lane);
    spool.iter().for_each(|spooled| state.pass(*spooled));
    state.stored().map(|stored| usize::try_from(stored).unwrap())
}

#[cfg(test)]
mod tests {
    use schema::RunId;
    use uuid::Uuid;

    use super::*;
    use crate::lane::{LastRecord, Message, Seen};

    fn id(n: u128) -> BatchId {
        BatchId(Uuid::from_u128(n))
    }

    /// Batches 1, 2, 3. The first was in flight after sequence 5, with the empty batch 9.
    fn spool() -> Vec<Spooled> {
        let one = |n, empty, expected| Spooled {
            batch: id(n),
            empty,
            expected,
        };
        vec![one(1, id(9), 5), one(2, BatchId::NIL, 0), one(3, BatchId::NIL, 0)]
    }

    fn stored(sequence: u64, record: Seen, spool: &[Spooled]) -> Result<usize, &'static str> {
        stored_before(&Lane::resume(LastRecord::At { sequence, record }).unwrap(), spool)
    }

    #[test]
    fn the_last_record_shows_how_much_is_stored() {
        let batch = |n| Seen::Ours(Message::Batch(id(n)));
        let fence = |n| Seen::Fence { last_batch: id(n) };
        for (sequence, record, expected) in [
            (5, Seen::Ours(Message::Open), 0),
            (5, batch(7), 0),
            (8, batch(9), 0),
            (8, batch(1), 1),
            (12, batch(3), 3),
            (13, fence(2), 2),
            (13, fence(7), 0),
        ] {
            assert_eq!(
                stored(sequence, record, &spool()),
                Ok(expected),
                "{sequence} {record:?}"
            );
        }
        assert_eq!(stored(70, batch(7), &[]), Ok(0), "a lane that has nothing in the spool");
        assert_eq!(stored(70, Seen::Ours(Message::Close), &[]), Ok(0));
    }

    #[test]
    fn batches_removed_from_the_front_were_stored() {
        let left = &spool()[2..];
        assert_eq!(stored(9, Seen::Ours(Message::Batch(id(2))), left), Ok(0));
        assert_eq!(stored(10, Seen::Ours(Message::Batch(id(3))), left), Ok(1));
    }

    #[test]
    fn contradictions_are_errors() {
        let batch = |n| Seen::Ours(Message::Batch(id(n)));
        for (sequence, record) in [(4, batch(7)), (6, batch(7)), (6, Seen::Ours(Message::Close))] {
            assert!(stored(sequence, record, &spool()).is_err(), "{sequence} {record:?}");
        }
        for nothing in [
            LastRecord::None,
            LastRecord::At {
                sequence: 5,
                record: Seen::decode(b"?", RunId::new()),
            },
        ] {
            assert!(Lane::resume(nothing).is_err());
        }
    }
}

//! Ranges of a shard: consecutive records, sealed without the duplicates among them. Pure: the caller passes the clock.

use schema::{UsageEvent, manifest::Pending};

use super::record::Record;

/// The position of an event in a shard: the sequence of its record, and its index there.
pub type At = (u64, u32);

/// The result of sealing.
#[derive(Debug)]
pub enum Sealed {
    /// Events to insert, or duplicates.
    Range(Range),
    /// No events: the shard is done through this sequence.
    Empty(u64),
}

/// A range with events: all that is needed to insert it, as often as necessary.
#[derive(Debug)]
pub struct Range {
    pub pending: Pending,
    records: Vec<Record>,
    /// Positions that are already stored, in order. Only a repair has them.
    stored: Vec<At>,
}

/// Seals records without the `dropped` positions, which are in order. `None`: there are no records.
pub fn seal(records: Vec<Record>, dropped: Vec<At>, now_ms: i64) -> Option<Sealed> {
    let last = records.last()?.seq;
    let range = Range::of(records, dropped, Vec::new(), now_ms)?;
    Some(if range.is_empty() {
        Sealed::Empty(last)
    } else {
        Sealed::Range(range)
    })
}

impl Range {
    /// `dropped` are positions of duplicates; both lists are in order. `None`: there are no records.
    fn of(records: Vec<Record>, dropped: Vec<At>, stored: Vec<At>, sealed_at_ms: i64) -> Option<Self> {
        let (first, last) = (records.first()?.seq, records.last()?.seq);
        let mut range = Self {
            pending: Pending {
                first,
                last,
                rows: 0,
                checksum: 0,
                dropped,
                sealed_at_ms,
            },
            records,
            stored,
        };
        let mut hash = crc32fast::Hasher::new();
        let mut rows = 0;
        for (record, idx, event) in range.events() {
            hash.update(&record.seq.to_le_bytes());
            hash.update(&idx.to_le_bytes());
            hash.update(event.event_id.0.as_bytes());
            rows += 1;
        }
        range.pending.rows = rows;
        range.pending.checksum = hash.finalize();
        Some(range)
    }

    /// Rebuilds a range from records that were read again. Fails if they are not the sealed records, because an event could then
    /// be stored twice or never.
    pub fn replayed(pending: &Pending, records: Vec<Record>) -> Result<Self, String> {
        let again = Self::of(records, pending.dropped.clone(), Vec::new(), pending.sealed_at_ms)
            .ok_or_else(|| format!("the stream has no records in {}-{}", pending.first, pending.last))?;
        if again.pending == *pending {
            Ok(again)
        } else {
            Err(format!(
                "the manifest has {} rows in {}-{} (checksum {:08x}), the stream has {} in {}-{} (checksum {:08x})",
                pending.rows,
                pending.first,
                pending.last,
                pending.checksum,
                again.pending.rows,
                again.pending.first,
                again.pending.last,
                again.pending.checksum,
            ))
        }
    }

    /// The events of these records that are neither `stored` nor dropped, for a repair. Both lists are in order.
    pub fn without(records: Vec<Record>, stored: Vec<At>, mut dropped: Vec<At>, sealed_at_ms: i64) -> Option<Self> {
        dropped.retain(|at| stored.binary_search(at).is_err());
        Self::of(records, dropped, stored, sealed_at_ms)
    }

    /// There is nothing to insert.
    pub fn is_empty(&self) -> bool {
        self.pending.rows == 0 && self.pending.dropped.is_empty()
    }

    /// The events that get a row, with their records and indices.
    pub fn events(&self) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
        self.all().filter(|(record, idx, _)| {
            let at = (record.seq, *idx);
            !self.is_dropped(&at) && self.stored.binary_search(&at).is_err()
        })
    }

    /// The dropped events, with their records and indices.
    pub fn duplicates(&self) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
        self.all()
            .filter(|(record, idx, _)| self.is_dropped(&(record.seq, *idx)))
    }

    /// How many records it has.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// When the stream stored its first record.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.records.first().map(|record| record.stored_ms)
    }

    fn all(&self) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
        self.records
            .iter()
            .flat_map(|record| record.indexed().map(move |(idx, event)| (record, idx, event)))
    }

    fn is_dropped(&self, at: &At) -> bool {
        self.pending.dropped.binary_search(at).is_ok()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::pipeline::row::tests::event;
    use schema::RunId;

    pub fn record(seq: u64, events: u64) -> Record {
        Record {
            seq,
            run_id: RunId(uuid::Uuid::from_u128(7)),
            events: (0..events).map(|n| event(u128::from(seq * 1_000 + n))).collect(),
            bytes: 10 + events,
            stored_ms: 0,
            permit: None,
        }
    }

    fn sealed(records: Vec<Record>) -> Range {
        Range::of(records, Vec::new(), Vec::new(), 5).unwrap()
    }

    pub fn positions<'a>(events: impl Iterator<Item = (&'a Record, u32, &'a UsageEvent)>) -> Vec<At> {
        events.map(|(record, idx, _)| (record.seq, idx)).collect()
    }

    #[test]
    fn a_replay_is_equal_or_refused() {
        let pending = sealed(vec![record(1, 2), record(4, 3)]).pending;
        assert_eq!((pending.first, pending.last, pending.rows), (1, 4, 5));
        let again = Range::replayed(&pending, vec![record(1, 2), record(4, 3)]).unwrap();
        assert_eq!(again.pending, pending);
        for other in [
            vec![],
            vec![record(1, 2)],
            vec![record(1, 2), record(5, 3)],
            vec![record(1, 3), record(4, 2)],
            vec![record(1, 2), record(3, 0), record(4, 4)],
        ] {
            assert!(Range::replayed(&pending, other).is_err());
        }
    }

    #[test]
    fn dropped_positions_have_no_row() {
        let records = vec![record(1, 3), record(2, 2)];
        let range = Range::of(records, vec![(1, 1), (2, 0)], Vec::new(), 5).unwrap();
        assert_eq!(positions(range.events()), [(1, 0), (1, 2), (2, 1)]);
        assert_eq!(range.pending.rows, 3);
        assert_eq!(positions(range.duplicates()), [(1, 1), (2, 0)]);
        assert!(Range::replayed(&range.pending, vec![record(1, 3), record(2, 2)]).is_ok());
    }

    #[test]
    fn records_with_only_duplicates_are_a_range() {
        let sealed = seal(vec![record(1, 1), record(2, 1)], vec![(1, 0), (2, 0)], 5);
        assert!(matches!(sealed, Some(Sealed::Range(range)) if range.pending.rows == 0 && range.pending.last == 2));
    }

    #[test]
    fn a_repair_has_the_events_that_are_neither_stored_nor_dropped() {
        let records = vec![record(1, 3), record(2, 2)];
        let range = Range::without(records, vec![(1, 0), (2, 1)], vec![(1, 0), (1, 2)], 5).unwrap();
        assert_eq!(
            (positions(range.events()), range.pending.rows),
            (vec![(1, 1), (2, 0)], 2)
        );
        assert_eq!(positions(range.duplicates()), [(1, 2)]);
    }
}

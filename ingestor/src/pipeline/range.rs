//! Ranges of a shard: consecutive records, sealed without the duplicates among them. [`protocol::range`] decides, this holds
//! the records. Pure: the caller passes the clock.

use protocol::range::{self, EventPosition};
use schema::{EventId, UsageEvent, manifest::Pending};

use super::record::Record;

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
    stored: Vec<EventPosition>,
}

/// Seals records without the `dropped` positions, which are in order. `None`: there are no records.
pub fn seal(records: Vec<Record>, dropped: Vec<EventPosition>, now_ms: i64) -> Option<Sealed> {
    let (first, last) = (records.first()?.seq, records.last()?.seq);
    let sealed = range::seal(first, last, ids(&records, &[]), dropped, now_ms);
    Some(match sealed {
        range::Sealed::Empty(last) => Sealed::Empty(last),
        range::Sealed::Range(pending) => Sealed::Range(Range {
            pending,
            records,
            stored: Vec::new(),
        }),
    })
}

impl Range {
    /// `dropped` are positions of duplicates; both lists are in order. `None`: there are no records.
    fn of(
        records: Vec<Record>,
        dropped: Vec<EventPosition>,
        stored: Vec<EventPosition>,
        sealed_at_ms: i64,
    ) -> Option<Self> {
        let (first, last) = (records.first()?.seq, records.last()?.seq);
        let pending = range::pending(first, last, ids(&records, &stored), dropped, sealed_at_ms);
        Some(Self {
            pending,
            records,
            stored,
        })
    }

    /// Rebuilds a range from records that were read again. Fails if they are not the sealed records, because an event could then
    /// be stored twice or never.
    pub fn replayed(pending: &Pending, records: Vec<Record>) -> Result<Self, String> {
        let again = Self::of(records, pending.dropped.clone(), Vec::new(), pending.sealed_at_ms)
            .ok_or_else(|| format!("the stream has no records in {}-{}", pending.first, pending.last))?;
        range::check_replay(pending, &again.pending)?;
        Ok(again)
    }

    /// The events of these records that are neither `stored` nor dropped, for a repair. Both lists are in order.
    pub fn without(
        records: Vec<Record>,
        stored: Vec<EventPosition>,
        mut dropped: Vec<EventPosition>,
        sealed_at_ms: i64,
    ) -> Option<Self> {
        dropped.retain(|position| stored.binary_search(position).is_err());
        Self::of(records, dropped, stored, sealed_at_ms)
    }

    /// There is nothing to insert.
    pub fn is_empty(&self) -> bool {
        range::is_empty(&self.pending)
    }

    /// The events that get a row, with their records and indices.
    pub fn events(&self) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
        self.all().filter(|(record, idx, _)| {
            let position = (record.seq, *idx);
            range::has_row(&self.pending.dropped, position) && self.stored.binary_search(&position).is_err()
        })
    }

    /// The dropped events, with their records and indices.
    pub fn duplicates(&self) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
        self.all()
            .filter(|(record, idx, _)| !range::has_row(&self.pending.dropped, (record.seq, *idx)))
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
        all(&self.records)
    }
}

fn all(records: &[Record]) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
    records
        .iter()
        .flat_map(|record| record.indexed().map(move |(idx, event)| (record, idx, event)))
}

/// The ids of the events that are not `stored`, at their positions. `stored` is in order.
fn ids(records: &[Record], stored: &[EventPosition]) -> impl Iterator<Item = (EventPosition, EventId)> {
    all(records)
        .map(|(record, idx, event)| ((record.seq, idx), event.event_id))
        .filter(move |(position, _)| stored.binary_search(position).is_err())
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

    pub fn positions<'a>(events: impl Iterator<Item = (&'a Record, u32, &'a UsageEvent)>) -> Vec<EventPosition> {
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

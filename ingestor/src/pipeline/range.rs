//! Ranges of a shard: records are gathered in order, cut off, then sealed, less the duplicates among them. Pure: the clock and
//! all effects are the caller's.

use std::time::Instant;

use schema::{RunId, UsageEvent, manifest::Pending};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    config::BatchSettings,
    pipeline::row::{Attempt, DuplicateRow, EventRow, Position},
};

/// A record as it was read. An open, fence, close or dead record has no events: it only moves the range on.
#[derive(Debug)]
pub struct Record {
    pub seq: u64,
    pub run_id: RunId,
    pub events: Vec<UsageEvent>,
    /// Bytes of its message.
    pub bytes: u64,
    /// When the stream stored it, in milliseconds since the Unix epoch.
    pub stored_ms: i64,
    /// Its share of the memory that all shards have.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// What is being gathered.
#[derive(Debug)]
pub struct Gathering {
    bounds: BatchSettings,
    records: Vec<Record>,
    rows: u64,
    bytes: u64,
    /// When the first record came.
    since: Option<Instant>,
}

/// What was sealed.
#[derive(Debug)]
pub enum Sealed {
    /// Events to insert, or duplicates.
    Range(Range),
    /// No events: the shard is done through this sequence.
    Empty(u64),
}

/// A range with events: all that is needed to insert it, as often as need be.
#[derive(Debug)]
pub struct Range {
    pub pending: Pending,
    records: Vec<Record>,
    /// Positions that have their place already, in order: of a repair.
    there: Vec<(u64, u32)>,
}

impl Gathering {
    pub fn new(bounds: BatchSettings) -> Self {
        Self {
            bounds,
            records: Vec::new(),
            rows: 0,
            bytes: 0,
            since: None,
        }
    }

    pub fn push(&mut self, record: Record, now: Instant) {
        self.rows += record.events.len() as u64;
        self.bytes += record.bytes;
        self.since.get_or_insert(now);
        self.records.push(record);
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// When the stream stored its first record.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.records.first().map(|record| record.stored_ms)
    }

    /// No more records, please: a record is never split, so a range may pass its bounds by one record.
    pub fn is_full(&self) -> bool {
        self.rows >= self.bounds.batch_rows_max || self.bytes >= self.bounds.batch_bytes_max
    }

    /// When it has to be sealed at the latest; `None`: there is nothing to seal.
    pub fn due_at(&self) -> Option<Instant> {
        self.since.map(|since| since + self.bounds.batch_age_max)
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.is_full() || self.due_at().is_some_and(|due| due <= now)
    }

    /// All that was gathered, to be sealed; gathering begins anew.
    pub fn cut(&mut self) -> Vec<Record> {
        (self.rows, self.bytes, self.since) = (0, 0, None);
        std::mem::take(&mut self.records)
    }

    /// Records that were cut off and have no room in the range that was sealed: before those that came since.
    pub fn put_back(&mut self, records: Vec<Record>, now: Instant) {
        let since = std::mem::replace(self, Self::new(self.bounds));
        for record in records.into_iter().chain(since.records) {
            self.push(record, now);
        }
    }

    /// Cuts off and seals, with no look for duplicates. `None`: nothing was gathered.
    pub fn seal(&mut self, now_ms: i64) -> Option<Sealed> {
        seal(self.cut(), Vec::new(), now_ms)
    }
}

/// Seals records without the dropped positions, which are in order. `None`: no records.
pub fn seal(records: Vec<Record>, dropped: Vec<(u64, u32)>, now_ms: i64) -> Option<Sealed> {
    let last = records.last()?.seq;
    let range = Range::of(records, dropped, Vec::new(), now_ms)?;
    Some(if range.is_empty() {
        Sealed::Empty(last)
    } else {
        Sealed::Range(range)
    })
}

impl Range {
    /// `None`: no records. `dropped` are positions of duplicates, in order, as are those `there`.
    fn of(records: Vec<Record>, dropped: Vec<(u64, u32)>, there: Vec<(u64, u32)>, sealed_at_ms: i64) -> Option<Self> {
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
            there,
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

    /// A range again, from the records read again. Fails if they are not what was sealed: storing them could store an event
    /// twice or never.
    pub fn replayed(pending: &Pending, records: Vec<Record>) -> Result<Self, String> {
        let again = Self::of(records, pending.dropped.clone(), Vec::new(), pending.sealed_at_ms)
            .ok_or_else(|| format!("the stream has no records in {}-{}", pending.first, pending.last))?;
        if again.pending == *pending {
            Ok(again)
        } else {
            Err(format!(
                "sealed were {} rows in {}-{} (checksum {:08x}), read again are {} in {}-{} ({:08x})",
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

    /// What these records have beyond the positions that are there already, without the dropped ones; all in order.
    pub fn without(
        records: Vec<Record>,
        there: Vec<(u64, u32)>,
        mut dropped: Vec<(u64, u32)>,
        sealed_at_ms: i64,
    ) -> Option<Self> {
        dropped.retain(|at| there.binary_search(at).is_err());
        Self::of(records, dropped, there, sealed_at_ms)
    }

    /// There is nothing in it to insert.
    pub fn is_empty(&self) -> bool {
        self.pending.rows == 0 && self.pending.dropped.is_empty()
    }

    /// Rows for one try.
    pub fn rows(&self, generation: u32, shard: u16, attempt: Attempt) -> impl Iterator<Item = EventRow<'_>> {
        self.events().map(move |(record, idx, event)| {
            let at = Position {
                generation,
                shard,
                stream_seq: record.seq,
                idx,
            };
            EventRow::new(event, record.run_id, at, attempt)
        })
    }

    /// The dropped events, for one try.
    pub fn duplicates(&self, generation: u32, shard: u16, attempt: Attempt) -> impl Iterator<Item = DuplicateRow<'_>> {
        self.all()
            .filter(|at| self.is_dropped(at))
            .map(move |(record, idx, event)| {
                let at = Position {
                    generation,
                    shard,
                    stream_seq: record.seq,
                    idx,
                };
                DuplicateRow::new(event, record.run_id, at, attempt)
            })
    }

    /// The events that have a row.
    pub fn kept(&self) -> impl Iterator<Item = &UsageEvent> {
        self.events().map(|(.., event)| event)
    }

    /// How many records it has.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    pub fn oldest_ms(&self) -> Option<i64> {
        self.records.first().map(|record| record.stored_ms)
    }

    fn events(&self) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
        self.all()
            .filter(|at| !self.is_dropped(at) && self.there.binary_search(&(at.0.seq, at.1)).is_err())
    }

    fn all(&self) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
        self.records.iter().flat_map(|record| {
            (0u32..)
                .zip(&record.events)
                .map(move |(idx, event)| (record, idx, event))
        })
    }

    fn is_dropped(&self, (record, idx, _): &(&Record, u32, &UsageEvent)) -> bool {
        self.pending.dropped.binary_search(&(record.seq, *idx)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::row::tests::event;
    use proptest::prelude::*;
    use std::time::Duration;

    const BOUNDS: BatchSettings = BatchSettings {
        batch_rows_max: 10,
        batch_bytes_max: 1_000,
        batch_age_max: Duration::from_millis(400),
        records_in_memory_max: 0,
    };

    fn record(seq: u64, events: u64) -> Record {
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

    #[test]
    fn rows_bytes_or_age_end_a_batch() {
        let start = Instant::now();
        let mut rows = Gathering::new(BOUNDS);
        rows.push(record(1, 9), start);
        assert!(!rows.is_due(start));
        rows.push(record(2, 4), start);
        assert!(rows.is_full(), "13 rows: the record was not split");
        assert!(matches!(rows.seal(0), Some(Sealed::Range(range)) if range.pending.rows == 13));

        let mut bytes = Gathering::new(BOUNDS);
        bytes.push(
            Record {
                bytes: 1_000,
                ..record(1, 1)
            },
            start,
        );
        assert!(bytes.is_full());

        let mut age = Gathering::new(BOUNDS);
        assert_eq!(age.due_at(), None, "nothing ages while there is nothing");
        age.push(record(1, 1), start);
        age.push(record(2, 1), start + Duration::from_millis(399));
        assert!(!age.is_due(start + Duration::from_millis(399)));
        assert!(
            age.is_due(start + Duration::from_millis(400)),
            "age counts from the first record"
        );
    }

    #[test]
    fn records_without_events_need_no_insert() {
        let mut gathering = Gathering::new(BOUNDS);
        gathering.push(record(3, 0), Instant::now());
        gathering.push(record(9, 0), Instant::now());
        assert!(matches!(gathering.seal(0), Some(Sealed::Empty(9))));
        assert!(gathering.seal(0).is_none());
    }

    #[test]
    fn a_replay_is_the_same_or_refused() {
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
        let attempt = Attempt {
            sealed_at_ms: 5,
            insert_id: uuid::Uuid::nil(),
        };
        let at: Vec<_> = range.rows(1, 0, attempt).map(|row| (row.stream_seq, row.idx)).collect();
        assert_eq!(at, [(1, 0), (1, 2), (2, 1)]);
        assert_eq!(range.pending.rows, 3);
        let dropped = range.duplicates(1, 0, attempt).map(|row| (row.stream_seq, row.idx));
        assert_eq!(dropped.collect::<Vec<_>>(), [(1, 1), (2, 0)]);
        assert!(Range::replayed(&range.pending, vec![record(1, 3), record(2, 2)]).is_ok());
    }

    #[test]
    fn records_of_duplicates_alone_are_a_range() {
        let sealed = seal(vec![record(1, 1), record(2, 1)], vec![(1, 0), (2, 0)], 5);
        assert!(matches!(sealed, Some(Sealed::Range(range)) if range.pending.rows == 0 && range.pending.last == 2));
    }

    #[test]
    fn a_repair_has_what_is_neither_there_nor_dropped() {
        let records = vec![record(1, 3), record(2, 2)];
        let range = Range::without(records, vec![(1, 0), (2, 1)], vec![(1, 0), (1, 2)], 5).unwrap();
        let attempt = Attempt {
            sealed_at_ms: 5,
            insert_id: uuid::Uuid::nil(),
        };
        let at: Vec<_> = range.rows(1, 0, attempt).map(|row| (row.stream_seq, row.idx)).collect();
        assert_eq!((at, range.pending.rows), (vec![(1, 1), (2, 0)], 2));
        let dropped = range.duplicates(1, 0, attempt).map(|row| (row.stream_seq, row.idx));
        assert_eq!(dropped.collect::<Vec<_>>(), [(1, 2)]);
    }

    #[test]
    fn what_is_put_back_comes_before_what_came_since() {
        let now = Instant::now();
        let mut gathering = Gathering::new(BOUNDS);
        (1..4).for_each(|seq| gathering.push(record(seq, 1), now));
        let mut cut = gathering.cut();
        assert!(gathering.is_empty() && gathering.due_at().is_none());
        gathering.push(record(9, 4), now);
        gathering.put_back(cut.split_off(1), now);
        assert_eq!((gathering.len(), gathering.rows, gathering.bytes), (3, 6, 11 + 11 + 14));
        assert!(
            matches!(gathering.seal(0), Some(Sealed::Range(range)) if range.pending.first == 2 && range.pending.last == 9)
        );
    }

    proptest! {
        #[test]
        fn every_event_has_one_row_whatever_the_cuts(sizes in prop::collection::vec(0u64..8, 1..60)) {
            let now = Instant::now();
            let mut gathering = Gathering::new(BOUNDS);
            let (mut stored, mut through) = (Vec::new(), 0);
            let mut take = |sealed: Option<Sealed>| match sealed {
                Some(Sealed::Range(range)) => {
                    assert!(range.pending.first > through);
                    through = range.pending.last;
                    let attempt = Attempt { sealed_at_ms: 0, insert_id: uuid::Uuid::nil() };
                    stored.extend(range.rows(1, 0, attempt).map(|row| (row.stream_seq, row.idx)));
                }
                Some(Sealed::Empty(last)) => through = last,
                None => {}
            };
            for (seq, size) in (1..).zip(&sizes) {
                gathering.push(record(seq, *size), now);
                if gathering.is_due(now) {
                    take(gathering.seal(0));
                }
            }
            take(gathering.seal(0));
            let all: Vec<_> = (1u64..).zip(&sizes).flat_map(|(seq, size)| (0..*size as u32).map(move |idx| (seq, idx))).collect();
            prop_assert_eq!(stored, all);
        }
    }
}

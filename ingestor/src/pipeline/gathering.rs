//! Gathers records in order until a bound is reached: rows, bytes or age. Pure: the caller passes the clock.

use std::time::Instant;

use super::{
    range::{Sealed, seal},
    record::Record,
};
use crate::config::BatchSettings;

/// The records that wait to be sealed.
#[derive(Debug)]
pub struct Gathering {
    bounds: BatchSettings,
    records: Vec<Record>,
    rows: u64,
    bytes: u64,
    /// When the first record came.
    since: Option<Instant>,
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

    /// It takes no more records. A record is never split, so a range may exceed its bounds by one record.
    pub fn is_full(&self) -> bool {
        self.rows >= self.bounds.batch_rows_max || self.bytes >= self.bounds.batch_bytes_max
    }

    /// The latest time to seal it. `None`: it is empty.
    pub fn due_at(&self) -> Option<Instant> {
        self.since.map(|since| since + self.bounds.batch_age_max)
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.is_full() || self.due_at().is_some_and(|due| due <= now)
    }

    /// Removes and returns all records, to be sealed.
    pub fn cut(&mut self) -> Vec<Record> {
        (self.rows, self.bytes, self.since) = (0, 0, None);
        std::mem::take(&mut self.records)
    }

    /// Puts records that were cut, but did not fit into the sealed range, before those that came since.
    pub fn put_back(&mut self, records: Vec<Record>, now: Instant) {
        let since = std::mem::replace(self, Self::new(self.bounds));
        for record in records.into_iter().chain(since.records) {
            self.push(record, now);
        }
    }

    /// Cuts and seals all records, without looking for duplicates. `None`: there are none.
    pub fn seal(&mut self, now_ms: i64) -> Option<Sealed> {
        seal(self.cut(), Vec::new(), now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::range::tests::{positions, record};
    use proptest::prelude::*;
    use std::time::Duration;

    const BOUNDS: BatchSettings = BatchSettings {
        batch_rows_max: 10,
        batch_bytes_max: 1_000,
        batch_age_max: Duration::from_millis(400),
        records_in_memory_max: 0,
    };

    #[test]
    fn rows_bytes_or_age_end_a_range() {
        let start = Instant::now();
        let mut rows = Gathering::new(BOUNDS);
        rows.push(record(1, 9), start);
        assert!(!rows.is_due(start));
        rows.push(record(2, 4), start);
        assert!(rows.is_full(), "13 rows: a record is not split");
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
        assert_eq!(age.due_at(), None, "an empty range does not age");
        age.push(record(1, 1), start);
        age.push(record(2, 1), start + Duration::from_millis(399));
        assert!(!age.is_due(start + Duration::from_millis(399)));
        assert!(
            age.is_due(start + Duration::from_millis(400)),
            "the age counts from the first record"
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
    fn records_put_back_come_before_newer_ones() {
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
        fn every_event_has_one_row_for_any_cuts(sizes in prop::collection::vec(0u64..8, 1..60)) {
            let now = Instant::now();
            let mut gathering = Gathering::new(BOUNDS);
            let (mut stored, mut through) = (Vec::new(), 0);
            let mut take = |sealed: Option<Sealed>| match sealed {
                Some(Sealed::Range(range)) => {
                    assert!(range.pending.first > through);
                    through = range.pending.last;
                    stored.extend(positions(range.events()));
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
            let all: Vec<_> = (1u64..).zip(&sizes).flat_map(|(seq, size)| (0..u32::try_from(*size).unwrap()).map(move |idx| (seq, idx))).collect();
            prop_assert_eq!(stored, all);
        }
    }
}

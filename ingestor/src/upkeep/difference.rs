//! What differs between records of the stream and their rows in ClickHouse. Pure.

use std::collections::HashMap;

use clickhouse::Row;
use protocol::{audit::Held, range::EventPosition};
use schema::UsageEvent;
use serde::Deserialize;

use super::reread::Reread;
use crate::pipeline::verify::StoredEvent;

/// How many rows and positions ClickHouse holds of a record.
#[derive(Row, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRows {
    pub stream_seq: u64,
    pub rows: u64,
    pub positions: u64,
}

/// The records whose rows differ from the stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Sequences of records with fewer positions than events.
    pub missing: Vec<u64>,
    pub missing_rows: u64,
    /// Sequences of records with more rows than positions.
    pub doubled: Vec<u64>,
    pub doubled_rows: u64,
}

impl RecordRows {
    fn of(stream_seq: u64, Held { rows, positions }: Held) -> Self {
        Self {
            stream_seq,
            rows,
            positions,
        }
    }

    fn held(&self) -> Held {
        Held {
            rows: self.rows,
            positions: self.positions,
        }
    }
}

/// Adds the events that are held elsewhere, dropped or in earlier generations: they are not missing.
pub fn with_others(mut found: Vec<RecordRows>, others: &[EventPosition]) -> Vec<RecordRows> {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    for (seq, _) in others {
        *counts.entry(*seq).or_default() += 1;
    }
    for found in &mut found {
        let count = counts.remove(&found.stream_seq).unwrap_or(0);
        *found = RecordRows::of(found.stream_seq, found.held().with_others(count));
    }
    let only_others = |(stream_seq, count)| RecordRows::of(stream_seq, Held::default().with_others(count));
    found.extend(counts.into_iter().map(only_others));
    found
}

/// The first record with a position where `here`, in order, has another event.
pub fn other_record(chunk: &[Reread], here: &[StoredEvent]) -> Option<u64> {
    let is_other = |seq: u64, (idx, event): (u32, &UsageEvent)| {
        let found = here.binary_search_by_key(&(seq, idx), |row| (row.stream_seq, row.idx));
        let row = found.ok().and_then(|at| here.get(at));
        row.is_some_and(|row| row.event_id != event.event_id.0)
    };
    let mut records = chunk.iter();
    let other = records.find(|record| record.content.indexed().any(|event| is_other(record.seq, event)));
    other.map(|record| record.seq)
}

pub fn differences(chunk: &[Reread], found: &[RecordRows]) -> Differences {
    differences_of(
        chunk.iter().map(|record| (record.seq, record.content.events() as u64)),
        found,
    )
}

/// `expected`: the number of events of each record. Rows of other records do not count: their records were trimmed meanwhile.
pub fn differences_of(expected: impl IntoIterator<Item = (u64, u64)>, found: &[RecordRows]) -> Differences {
    let found: HashMap<u64, &RecordRows> = found.iter().map(|found| (found.stream_seq, found)).collect();
    let mut differences = Differences::default();
    for (seq, events) in expected {
        let difference = found
            .get(&seq)
            .map_or(Held::default(), |found| found.held())
            .difference(events);
        if difference.missing > 0 {
            differences.missing.push(seq);
            differences.missing_rows += difference.missing;
        }
        if difference.doubled > 0 {
            differences.doubled.push(seq);
            differences.doubled_rows += difference.doubled;
        }
    }
    differences.missing.sort_unstable();
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_doubled_rows_are_counted_separately() {
        let found = |stream_seq, rows, positions| RecordRows {
            stream_seq,
            rows,
            positions,
        };
        let stored = [
            found(1, 2, 2),
            found(2, 1, 1),
            found(3, 6, 3),
            found(4, 5, 3),
            found(9, 1, 1),
        ];
        let expected = [(1, 2), (2, 3), (3, 3), (4, 4), (5, 7), (6, 0)];
        assert_eq!(
            differences_of(expected, &stored),
            Differences {
                missing: vec![2, 4, 5],
                missing_rows: 2 + 1 + 7,
                doubled: vec![3, 4],
                doubled_rows: 3 + 2,
            }
        );
        assert_eq!(differences_of([(1, 2)], &stored), Differences::default());
    }

    #[test]
    fn dropped_events_and_those_of_earlier_generations_are_not_missing() {
        let stored = vec![RecordRows {
            stream_seq: 1,
            rows: 2,
            positions: 2,
        }];
        let found = with_others(stored, &[(1, 1), (2, 0), (2, 1)]);
        assert_eq!(differences_of([(1, 3), (2, 2)], &found), Differences::default());
        assert_eq!(differences_of([(1, 4), (2, 2)], &found).missing, [1]);
    }
}

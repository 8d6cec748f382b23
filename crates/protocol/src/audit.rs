//! Comparing a closed record of the stream with its rows in ClickHouse.
//!
//! The audit finds what the checks of [`crate::storing`] cannot see: an ingestor that paused between its check and its
//! insert for longer than ClickHouse remembers tokens.
//!
//! # Promises
//! - An event that was dropped as a duplicate is recorded in another table, so it is not missing.
//! - An event that an earlier generation of the stream holds is not missing.
//! - A position with several rows keeps one.
//! - An event of a closed day is not missing ([`bill_day`]): its sum is kept without its row, and retention may have deleted the
//!   row. A new row would be counted again, on a day that is open.
//!
//! The model `manifest` checks these in its scenario `window`. Its mutants `AuditStoresDuplicates` and `NoAudit` fail.

/// What ClickHouse holds of one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub rows: u64,
    /// The number of different positions of those rows.
    pub positions: u64,
}

/// What differs from the stream, in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows to store.
    pub missing: u64,
    /// Rows to remove.
    pub doubled: u64,
}

impl Held {
    /// Adds `others`, the events of the record that are held elsewhere, with each position counted once: those that were dropped,
    /// or that only an earlier generation holds.
    pub fn with_others(self, others: u64) -> Self {
        Self {
            rows: self.rows + others,
            positions: self.positions + others,
        }
    }

    /// Compares with a record of `events` events.
    pub fn difference(self, events: u64) -> Difference {
        Difference {
            missing: events.saturating_sub(self.positions),
            doubled: self.rows.saturating_sub(self.positions),
        }
    }
}

const DAY_MS: i64 = 24 * 3_600 * 1_000;
/// Sums keep an event under a day at most this long before it was stored.
const LATEST_DAYS: i64 = 5;

/// The day under which sums keep an event, in days since the Unix epoch: the column `bill_day` of `usage_events`. `time_ms`: the
/// time of the request. `sealed_ms`: when its range was sealed, or when the stream stored its record, which is a little earlier.
pub fn bill_day(time_ms: i64, sealed_ms: i64) -> i64 {
    let (day, sealed) = (time_ms.div_euclid(DAY_MS), sealed_ms.div_euclid(DAY_MS));
    day.max(sealed - LATEST_DAYS).min(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_an_event_is_near_the_day_of_its_sealing() {
        let at = |day: i64| day * DAY_MS + 7;
        for (time, sealed, day) in [(100, 100, 100), (97, 100, 97), (90, 100, 95), (101, 100, 100)] {
            assert_eq!(bill_day(at(time), at(sealed)), day, "{time} {sealed}");
        }
    }

    #[test]
    fn missing_and_doubled_rows_are_distinguished() {
        for (events, rows, positions, missing, doubled) in [
            (2, 2, 2, 0, 0),
            (3, 1, 1, 2, 0),
            (3, 6, 3, 0, 3),
            (4, 5, 3, 1, 2),
            (7, 0, 0, 7, 0),
            (0, 0, 0, 0, 0),
        ] {
            let held = Held { rows, positions };
            assert_eq!(
                held.difference(events),
                Difference { missing, doubled },
                "{held:?} of {events}"
            );
        }
    }

    #[test]
    fn dropped_events_are_not_missing() {
        let held = Held { rows: 2, positions: 2 };
        assert_eq!(held.with_others(1).difference(3), Difference::default());
        assert_eq!(held.with_others(1).difference(4).missing, 1);
        // A dropped event that still has a row is not doubled.
        assert_eq!(Held { rows: 2, positions: 1 }.with_others(1).difference(1).doubled, 1);
    }
}

//! Comparing a closed record of the stream with its rows in ClickHouse.
//!
//! The audit finds what the checks of [`crate::storing`] cannot see: an ingestor that paused between its check and its
//! insert for longer than ClickHouse remembers tokens.
//!
//! # Promises
//! - An event that was dropped as a duplicate is recorded in another table, so it is not missing.
//! - An event that an earlier generation of the stream holds is not missing.
//! - A position with several rows keeps one.
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

#[cfg(test)]
mod tests {
    use super::*;

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

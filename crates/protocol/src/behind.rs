//! Decides whether ClickHouse lacks rows that a manifest has as stored, and which of them no replay can bring back.
//!
//! ClickHouse can lose rows that were verified: somebody drops a table, creates it anew, or restores it from an older backup.
//! The manifest has the newest range with rows, and every range is verified together with the one before it. So a shard cannot
//! pass a loss: either its newest range is missing, or the range before the one that is being stored.
//!
//! # Promises
//! - Retention does not look like a loss: it deletes only rows of closed days.
//! - A loss is reported for records that the stream may no longer have, and for no others.

use schema::manifest::{LostRange, StoredRange, Trimmed};

/// Whether ClickHouse lost rows, if it has rows at `positions` different positions of the newest range. `open_from_ms`: the
/// start of the first day that is not closed. The rows of earlier days may be deleted on purpose.
pub fn is_behind(newest: &StoredRange, positions: u64, open_from_ms: i64) -> bool {
    positions < newest.rows && newest.sealed_at_ms >= open_from_ms
}

/// The records that neither ClickHouse nor the stream has. `stored_through`: the last record before the loss that has rows.
/// `newest_last`: the last record that had rows.
pub fn lost(
    generation: u32,
    stored_through: u64,
    newest_last: u64,
    trimmed: Trimmed,
    found_at_ms: i64,
) -> Option<LostRange> {
    let (first, last) = (stored_through + 1, newest_last.min(trimmed.through));
    (trimmed.generation == generation && first <= last).then_some(LostRange {
        first,
        last,
        found_at_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_row_is_a_loss_unless_its_day_may_be_closed() {
        let newest = StoredRange {
            first: 5,
            last: 9,
            rows: 3,
            sealed_at_ms: 1_000,
        };
        for (positions, open_from_ms, behind) in [
            (3, 0, false),
            (2, 0, true),
            (0, 1_000, true),
            (0, 1_001, false),
            (3, 1_001, false),
        ] {
            assert_eq!(
                is_behind(&newest, positions, open_from_ms),
                behind,
                "{positions} {open_from_ms}"
            );
        }
    }

    #[test]
    fn only_records_that_were_trimmed_are_lost() {
        let trimmed = |through| Trimmed { generation: 2, through };
        let range = |generation, stored, newest, through| {
            let lost = lost(generation, stored, newest, trimmed(through), 7);
            lost.map(|lost| (lost.first, lost.last))
        };
        assert_eq!(range(2, 40, 100, 30), None, "the stream has all of them");
        assert_eq!(range(2, 40, 100, 40), None);
        assert_eq!(range(2, 40, 100, 60), Some((41, 60)));
        assert_eq!(
            range(2, 0, 50, 60),
            Some((1, 50)),
            "records after the newest had no rows"
        );
        assert_eq!(range(3, 0, 50, 60), None, "another generation was trimmed");
        assert_eq!(range(2, 50, 50, 60), None);
    }
}

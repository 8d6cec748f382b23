//! Decides whether the three counts of a line agree. Pure.

use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Numbers {
    pub clickhouse_units: i64,
    pub carried_in: i64,
    pub carried_out: i64,
    /// Reported units according to the ledger.
    pub ledger_units: i64,
    /// Units of the open report.
    pub open_units: i64,
    /// `None`: unknown.
    pub stripe_units: Option<i64>,
}

/// Units of reports that were delivered so recently that Stripe's summaries may not include them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    pub added: i64,
    /// By corrections: 0 or negative.
    pub taken: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineState {
    Ok,
    /// Not reported yet, an open report, or summaries that lag.
    Pending,
    /// The counts agree, and late usage of the line is on no invoice yet.
    Open,
    /// The counts differ.
    Difference,
}

impl Numbers {
    /// Units in Stripe (by the ledger if Stripe's are unknown) that should not be there; negative: missing.
    pub fn difference(&self) -> i64 {
        let units = self.stripe_units.unwrap_or(self.ledger_units);
        clamped(i128::from(units) - self.expected())
    }

    /// Units that were counted some time ago (`earlier`), and are not reported now. Negative: corrections that are not taken back.
    pub fn stuck(&self, earlier: i64) -> i64 {
        let unreported = self.expected() - i128::from(self.ledger_units);
        let earlier = unreported - i128::from(self.clickhouse_units) + i128::from(earlier);
        clamped(match (unreported, earlier) {
            (1.., 1..) => unreported.min(earlier),
            (..=-1, ..=-1) => unreported.max(earlier),
            _ => 0,
        })
    }

    /// `explained`: corrections that are not taken back yet lower the expected units by this (0 or negative).
    pub fn state(&self, explained: i64, recent: Recent) -> LineState {
        let ledger = i128::from(self.ledger_units);
        let unreported = self.expected() - ledger;
        let has_open = self.open_units != 0;
        let by_ledger = match unreported {
            0 if !has_open => LineState::Ok,
            // The open report contains a part of it. A later report contains the rest.
            _ if has_open => LineState::Pending,
            1.. => LineState::Pending,
            _ if unreported >= i128::from(explained) => LineState::Pending,
            _ => LineState::Difference,
        };
        // Recent reports may be missing, and the open one may be there.
        let may_have = |units: i128| {
            let lag = (ledger - i128::from(recent.added))..=(ledger - i128::from(recent.taken));
            lag.contains(&units) || has_open && lag.contains(&(units - i128::from(self.open_units)))
        };
        let by_stripe = match self.stripe_units.map(i128::from) {
            Some(units) if units == ledger => LineState::Ok,
            Some(units) if may_have(units) => LineState::Pending,
            None if ledger == 0 && !has_open => LineState::Ok,
            _ => LineState::Difference,
        };
        match (by_ledger, by_stripe) {
            (LineState::Difference, _) | (_, LineState::Difference) => LineState::Difference,
            (LineState::Ok, LineState::Ok) => LineState::Ok,
            _ => LineState::Pending,
        }
    }

    fn expected(&self) -> i128 {
        i128::from(self.clickhouse_units) + i128::from(self.carried_in) - i128::from(self.carried_out)
    }
}

fn clamped(units: i128) -> i64 {
    i64::try_from(units).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_units_of_an_earlier_time_are_stuck() {
        let numbers = |clickhouse_units, ledger_units| Numbers {
            clickhouse_units,
            ledger_units,
            ..Numbers::default()
        };
        for (numbers, earlier, expected) in [
            (numbers(12, 10), 10, 0),
            (numbers(12, 10), 11, 1),
            (numbers(12, 10), 12, 2),
            // Reported in the meantime.
            (numbers(12, 12), 12, 0),
            // Some units were corrected in the meantime.
            (numbers(11, 10), 15, 1),
            (numbers(8, 10), 15, 0),
            // A correction is not taken back.
            (numbers(8, 10), 8, -2),
            (numbers(9, 10), 8, -1),
            (numbers(8, 10), 10, 0),
        ] {
            assert_eq!(numbers.stuck(earlier), expected, "{numbers:?} {earlier}");
        }
    }

    #[test]
    fn pending_units_are_no_difference_and_missing_units_are() {
        let numbers = |clickhouse_units, ledger_units, open_units, stripe: i64| Numbers {
            clickhouse_units,
            ledger_units,
            open_units,
            stripe_units: Some(stripe).filter(|units| *units >= 0),
            ..Numbers::default()
        };
        let none = Recent::default();
        let added = |added| Recent { added, taken: 0 };
        let taken = |taken| Recent { added: 0, taken };
        for (numbers, explained, recent, expected) in [
            (numbers(10, 10, 0, 10), 0, none, LineState::Ok),
            (numbers(0, 0, 0, -1), 0, none, LineState::Ok),
            // Used since the last report.
            (numbers(12, 10, 0, 10), 0, none, LineState::Pending),
            // A report that may have arrived or not.
            (numbers(12, 10, 2, 10), 0, none, LineState::Pending),
            (numbers(12, 10, 2, 12), 0, none, LineState::Pending),
            (numbers(12, 10, 2, 14), 0, none, LineState::Difference),
            // Corrected, and not taken back yet.
            (numbers(8, 10, 0, 10), -2, none, LineState::Pending),
            (numbers(8, 10, 0, 10), -1, none, LineState::Difference),
            // Summaries may lack what was reported recently.
            (numbers(10, 10, 0, 7), 0, added(3), LineState::Pending),
            (numbers(12, 10, 2, 9), 0, added(3), LineState::Pending),
            (numbers(10, 10, 0, 7), 0, added(2), LineState::Difference),
            (numbers(10, 10, 0, 7), 0, none, LineState::Difference),
            (numbers(10, 10, 0, 13), 0, taken(-3), LineState::Pending),
            // A summary that lags never has too many.
            (numbers(10, 10, 0, 13), 0, added(10), LineState::Difference),
            (numbers(10, 10, 0, 13), 0, none, LineState::Difference),
            (numbers(10, 10, 0, -1), 0, none, LineState::Difference),
        ] {
            assert_eq!(numbers.state(explained, recent), expected, "{numbers:?} {recent:?}");
        }
        let carried = Numbers {
            carried_in: 5,
            carried_out: 2,
            ..numbers(10, 13, 0, 14)
        };
        assert_eq!(
            (carried.difference(), carried.state(0, Recent::default())),
            (1, LineState::Difference)
        );
    }
}

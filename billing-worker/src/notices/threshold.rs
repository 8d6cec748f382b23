//! Which thresholds of a limit are reached. Pure.

use std::str::FromStr;

use crate::accounts::limits::UNITS_MAX;

/// Percentages of the limit in force at which a notice is sent: at least one, distinct, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds(Vec<u16>);

impl Thresholds {
    /// Each threshold costs a notice and a permanent row.
    const MOST: usize = 8;
    /// Ten times the limit: billed overage can be many times the limit.
    const PERCENT_MAX: u16 = 1_000;

    /// Returns the thresholds that `spent` of `limit` has reached, lowest first.
    pub fn reached(&self, spent: i64, limit: i64) -> impl Iterator<Item = u16> {
        self.0
            .iter()
            .copied()
            .filter(move |percent| is_reached(spent, limit, *percent))
    }

    /// Returns the units at which the lowest threshold is reached.
    pub fn first_units(&self, limit: i64) -> i64 {
        let hundredths = i128::from(limit) * i128::from(self.lowest());
        let units = hundredths.div_euclid(100) + i128::from(hundredths.rem_euclid(100) > 0);
        i64::try_from(units.max(1)).unwrap_or(i64::MAX)
    }

    pub fn lowest(&self) -> u16 {
        self.0[0]
    }

    /// For SQL.
    pub fn percents(&self) -> Vec<i32> {
        self.0.iter().copied().map(i32::from).collect()
    }
}

// PostgreSQL compares granted * 100 with limit * percent in 64 bits.
const _: () = assert!(UNITS_MAX.checked_mul(Thresholds::PERCENT_MAX as i64).is_some());

/// Without usage no threshold is reached, even with a limit of 0.
fn is_reached(spent: i64, limit: i64, percent: u16) -> bool {
    spent > 0 && i128::from(spent) * 100 >= i128::from(limit) * i128::from(percent)
}

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut percents = Vec::new();
        for part in text.split(',') {
            match part.trim().parse() {
                Ok(percent @ 1..=Self::PERCENT_MAX) => percents.push(percent),
                _ => return Err(format!("`{part}` is not a percentage from 1 to {}", Self::PERCENT_MAX)),
            }
        }
        percents.sort_unstable();
        percents.dedup();
        match percents.len() {
            1..=Self::MOST => Ok(Self(percents)),
            _ => Err(format!("at most {} thresholds", Self::MOST)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn thresholds(text: &str) -> Thresholds {
        text.parse().unwrap()
    }

    #[test]
    fn a_threshold_is_reached_at_its_units_and_not_one_before() {
        let usual = thresholds("80,100");
        for (spent, limit, expected) in [
            (0, 100, vec![]),
            (79, 100, vec![]),
            (80, 100, vec![80]),
            (99, 100, vec![80]),
            (100, 100, vec![80, 100]),
            (250, 100, vec![80, 100]),
            // 80 % of 7 are 5.6.
            (5, 7, vec![]),
            (6, 7, vec![80]),
            (1, 1, vec![80, 100]),
            (0, 0, vec![]),
            (1, 0, vec![80, 100]),
            (-5, 100, vec![]),
            (UNITS_MAX, UNITS_MAX, vec![80, 100]),
        ] {
            assert_eq!(
                usual.reached(spent, limit).collect::<Vec<_>>(),
                expected,
                "{spent} of {limit}"
            );
        }
        assert_eq!(
            thresholds("150").reached(150, 100).collect::<Vec<_>>(),
            [150],
            "overage"
        );
    }

    #[test]
    fn thresholds_are_read_in_any_order_and_only_once() {
        assert_eq!(thresholds(" 100, 80,100"), Thresholds(vec![80, 100]));
        for bad in ["", "0", "1001", "80,", "-1", "eighty", "80;100", "1,2,3,4,5,6,7,8,9"] {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn more_usage_never_reaches_less_and_first_units_is_the_first(
            limit in 0..=UNITS_MAX, spent in 0..=UNITS_MAX, percent in 1..=1_000u16,
        ) {
            let one = Thresholds(vec![percent]);
            let first = one.first_units(limit);
            prop_assert_eq!(one.reached(spent, limit).next().is_some(), spent >= first);
            prop_assert!(one.reached(first, limit).next().is_some());
            prop_assert!(one.reached(first - 1, limit).next().is_none());
        }

        #[test]
        fn a_higher_limit_never_reaches_more(limit in 0..UNITS_MAX, spent in 0..=UNITS_MAX) {
            let usual = thresholds("80,100");
            prop_assert!(usual.reached(spent, limit + 1).count() <= usual.reached(spent, limit).count());
        }
    }
}

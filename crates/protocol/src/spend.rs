//! What billed usage costs, and how many units a spend cap still allows. Pure integers.
//!
//! A line of an invoice is the usage of one usage type in one segment. Stripe rounds each line to whole cents, half up. So the cap
//! limits the sum of the rounded lines, and not the exact sum: several lines that are rounded up could exceed it.
//!
//! # Promises
//! - After a grant, the lines cost no more than the cap, or no more than before ([`affordable`]).
//! - A unit that costs nothing is never refused.
//!
//! The grant in PostgreSQL is decided under the lock of the account's cap, so the lines do not grow meanwhile. Units that come
//! back only make room.

use crate::reports::money::price::{CENT, Price};

/// The usage of one usage type in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub units: i64,
    /// The first units cost nothing, this many.
    pub included: i64,
    /// Price of each further unit, in millionths of the currency.
    pub unit_price_micros: i64,
}

impl Line {
    /// In the currency's smallest unit, rounded half up as Stripe does for a line.
    pub fn cents(&self) -> i64 {
        let price = Price {
            included: self.included,
            unit_price_micros: self.unit_price_micros.max(0),
        };
        price.cents(self.units)
    }

    /// How many more units the line can have and cost at most `cents`. Negative cents are 0: a line may always have the units that
    /// cost nothing.
    fn room(&self, cents: i64) -> i64 {
        let billed = match i128::from(self.unit_price_micros) {
            ..=0 => i128::from(i64::MAX),
            // The largest amount that is rounded to `cents`.
            price => (i128::from(cents.max(0)) * CENT + CENT / 2 - 1) / price,
        };
        let room = i128::from(self.included.max(0)) + billed - i128::from(self.units);
        i64::try_from(room.max(0)).unwrap_or(i64::MAX)
    }
}

/// What all lines cost.
pub fn cents<'a>(lines: impl IntoIterator<Item = &'a Line>) -> i64 {
    let sum = |sum: i64, line: &Line| sum.saturating_add(line.cents());
    lines.into_iter().fold(0, sum)
}

/// How many more units the line with this number can have under a cap of all lines.
pub fn affordable(lines: &[Line], number: usize, cap_cents: i64) -> i64 {
    let Some(line) = lines.get(number) else {
        return 0;
    };
    let others = lines.iter().enumerate().filter(|(other, _)| *other != number);
    let others = cents(others.map(|(_, line)| line));
    line.room(cap_cents.saturating_sub(others))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(units: i64, included: i64, unit_price_micros: i64) -> Line {
        Line {
            units,
            included,
            unit_price_micros,
        }
    }

    #[test]
    fn units_past_the_included_ones_cost_whole_cents() {
        for (included, price, units, cents) in [
            (1_000, 15_000, 1_500, 750),
            (0, 333_333, 7, 233),
            (0, 333_333, 30, 1_000),
            (5_000, 10_000, 4_600, 0),
            (0, 5_000, 1, 1),
            (0, 4_999, 1, 0),
            (0, 15_000, -3, 0),
            (0, i64::MAX, i64::MAX, i64::MAX),
            (0, 0, 1_000, 0),
        ] {
            assert_eq!(
                line(units, included, price).cents(),
                cents,
                "{included} {price} {units}"
            );
        }
    }

    #[test]
    fn a_cap_allows_what_is_included_and_what_it_pays_for() {
        let calls = |units| line(units, 1_000, 15_000);
        for (lines, number, cap, expected) in [
            (vec![calls(0)], 0, 0, 1_000),
            (vec![calls(1_000)], 0, 3, 2),
            (vec![calls(1_002)], 0, 3, 0),
            // 2.5 cents would be rounded up.
            (vec![line(0, 0, 5_000)], 0, 2, 4),
            // Both lines share the cap.
            (vec![calls(1_002), line(0, 0, 10_000)], 1, 10, 7),
            // It was lowered, or units were reserved when it was set: what costs nothing goes on.
            (vec![calls(900), line(70, 0, 10_000)], 0, 10, 100),
            (vec![calls(900), line(70, 0, 10_000)], 1, 10, 0),
            (vec![line(5, 0, 0)], 0, 0, i64::MAX - 5),
            (vec![], 0, 10, 0),
        ] {
            assert_eq!(affordable(&lines, number, cap), expected, "{lines:?} {number} {cap}");
        }
    }

    fn lines() -> impl Strategy<Value = Vec<Line>> {
        let numbers = (0i64..3_000, 0i64..2_000, 0i64..400_000);
        prop::collection::vec(
            numbers.prop_map(|(units, included, price)| line(units, included, price)),
            1..6,
        )
    }

    proptest! {
        #[test]
        fn what_is_affordable_stays_below_the_cap_and_one_more_unit_does_not(
            lines in lines(),
            number in any::<prop::sample::Index>(),
            cap in 0i64..100_000,
        ) {
            let number = number.index(lines.len());
            let room = affordable(&lines, number, cap);
            let with = |units: i64| {
                let mut lines = lines.clone();
                lines[number].units += units;
                cents(&lines)
            };
            let before = with(0);
            if room > 0 && room < 1 << 40 {
                prop_assert!(with(room) <= cap.max(before));
            }
            if lines[number].unit_price_micros > 0 {
                // It is not too small either.
                if before <= cap {
                    prop_assert!(with(room + 1) > cap);
                } else {
                    prop_assert!(room == 0 || with(room) == before);
                }
            }
        }

        #[test]
        fn grants_and_returns_in_any_order_never_pass_the_cap(
            mut lines in lines(),
            cap in 0i64..100_000,
            steps in prop::collection::vec((any::<prop::sample::Index>(), -300i64..500), 0..40),
        ) {
            for line in &mut lines {
                line.units = 0;
            }
            for (number, units) in steps {
                let number = number.index(lines.len());
                let granted = units.min(affordable(&lines, number, cap));
                lines[number].units = (lines[number].units + granted).max(0);
                prop_assert!(cents(&lines) <= cap);
            }
        }
    }
}

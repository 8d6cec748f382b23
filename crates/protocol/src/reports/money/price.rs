//! What the units of a usage type cost, as Stripe bills a line.

/// Millionths of the currency in its smallest unit.
pub(crate) const CENT: i128 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// The first units of a segment cost nothing, this many.
    pub included: i64,
    /// Price of each further unit, in millionths of the currency.
    pub unit_price_micros: i64,
}

impl Price {
    /// What so many units of a segment cost, rounded half up once, as Stripe does for a line.
    pub fn cents(&self, units: i64) -> i64 {
        let billed = i128::from(units.saturating_sub(self.included).max(0));
        let cents = billed
            .saturating_mul(i128::from(self.unit_price_micros))
            .saturating_add(CENT / 2)
            / CENT;
        i64::try_from(cents).unwrap_or(i64::MAX)
    }

    /// What `units` cost after `before` others. The sum over a sequence of units is exact, because each part begins where the last
    /// one ended.
    pub fn difference(&self, before: i64, units: i64) -> i64 {
        self.cents(before.saturating_add(units))
            .saturating_sub(self.cents(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_past_the_included_ones_cost_whole_cents() {
        for (included, unit_price_micros, units, cents) in [
            (1_000, 15_000, 1_500, 750),
            (0, 333_333, 7, 233),
            (0, 333_333, 30, 1_000),
            (5_000, 10_000, 4_600, 0),
            (0, 5_000, 1, 1),
            (0, 4_999, 1, 0),
            (0, 15_000, -3, 0),
            (0, i64::MAX, i64::MAX, i64::MAX),
        ] {
            let price = Price {
                included,
                unit_price_micros,
            };
            assert_eq!(price.cents(units), cents, "{units} {price:?}");
        }
    }

    #[test]
    fn late_units_cost_what_is_missing_to_the_whole() {
        let exports = Price {
            included: 0,
            unit_price_micros: 333_333,
        };
        // 233 on the invoice and 34 later, not 33: eight cost 267.
        assert_eq!(
            (exports.cents(7), exports.difference(7, 1), exports.cents(8)),
            (233, 34, 267)
        );
        assert_eq!(exports.difference(8, -1), -34);
    }
}

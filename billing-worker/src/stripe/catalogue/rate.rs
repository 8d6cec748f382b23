//! What the units of a metered price cost, as its terms say.

use protocol::spend::Line;

/// The terms of a metered price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Three letters, lower case.
    pub currency: String,
    /// The first units of a period cost nothing, this many.
    pub included: i64,
    /// Price of each further unit, in millionths of the currency.
    pub unit_price_micros: i64,
}

impl Rate {
    /// The text in the metadata of a price; see [`crate::stripe::names::META_TERMS`].
    pub fn short(&self) -> String {
        let Self {
            currency,
            included,
            unit_price_micros,
        } = self;
        format!("{currency}-{included}-included-{unit_price_micros}-micros")
    }

    /// What so many units of a period cost, in the currency's smallest unit, as Stripe rounds a line.
    pub fn cents(&self, units: i64) -> i64 {
        let line = Line {
            units,
            included: self.included,
            unit_price_micros: self.unit_price_micros,
        };
        line.cents()
    }

    /// `None`: the text is not that of a metered price.
    pub fn parse(short: &str) -> Option<Self> {
        let rest = short.strip_suffix("-micros")?;
        let (included, unit_price) = rest.split_once("-included-")?;
        let (currency, included) = included.split_once('-')?;
        Some(Self {
            currency: currency.to_owned(),
            included: included.parse().ok()?,
            unit_price_micros: unit_price.parse().ok()?,
        })
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
            let rate = Rate {
                currency: "usd".into(),
                included,
                unit_price_micros,
            };
            assert_eq!(rate.cents(units), cents, "{units} {rate:?}");
        }
    }

    #[test]
    fn terms_of_metered_prices_are_read_back() {
        let rate = Rate {
            currency: "usd".into(),
            included: 1_000,
            unit_price_micros: 15_000,
        };
        assert_eq!(rate.short(), "usd-1000-included-15000-micros");
        assert_eq!(Rate::parse(&rate.short()), Some(rate));
        for other in ["usd-2900-month", "", "usd-x-included-1-micros", "1-included-1-micros"] {
            assert_eq!(Rate::parse(other), None, "{other}");
        }
    }
}

//! The terms of a metered price, as its metadata has them.

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

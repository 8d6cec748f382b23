//! What the units of a metered price cost, as its metadata have it.

use schema::{Currency, PlanTerms, prices::ByCurrency};

use super::amounts;

/// The terms of a metered price, in all its currencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The first units of a period cost nothing, this many.
    pub included: i64,
    /// Price of each further unit, in millionths of the currency.
    pub unit_price_micros: ByCurrency,
}

/// The same in the currency of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub currency: Currency,
    pub included: i64,
    pub unit_price_micros: i64,
}

impl Rates {
    /// What a plan says of a usage type that it bills.
    pub fn of(terms: &PlanTerms, usage_type: &str) -> Self {
        let micros = |currency| Some((currency, terms.unit_price_micros(usage_type, currency)?));
        Self {
            included: terms.usage.get(usage_type).map_or(0, |allowance| allowance.limit),
            unit_price_micros: terms.currencies().filter_map(micros).collect(),
        }
    }

    /// `None`: the price is not sold in this currency.
    pub fn rate(&self, currency: &str) -> Option<Rate> {
        let currency = currency.parse().ok()?;
        Some(Rate {
            currency,
            included: self.included,
            unit_price_micros: *self.unit_price_micros.get(&currency)?,
        })
    }

    /// The text in the metadata of a price; see [`crate::stripe::names::META_TERMS`].
    pub fn short(&self) -> String {
        let (usd, included) = (Currency::USD, self.included);
        let micros = self.unit_price_micros.get(&usd).copied().unwrap_or(0);
        amounts::short(
            format!("{usd}-{included}-included-{micros}-micros"),
            &self.unit_price_micros,
        )
    }

    /// `None`: the text is not that of a metered price.
    pub fn parse(short: &str) -> Option<Self> {
        let (first, mut unit_price_micros) = amounts::parse(short)?;
        let rest = first.strip_suffix("-micros")?;
        let (included, micros) = rest.split_once("-included-")?;
        let (currency, included) = included.split_once('-')?;
        unit_price_micros.insert(currency.parse().ok()?, micros.parse().ok()?);
        Some(Self {
            included: included.parse().ok()?,
            unit_price_micros,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_of_metered_prices_are_read_back() {
        let [usd, eur]: [Currency; 2] = ["usd", "eur"].map(|currency| currency.parse().unwrap());
        let mut rates = Rates {
            included: 1_000,
            unit_price_micros: [(usd, 15_000)].into(),
        };
        assert_eq!(rates.short(), "usd-1000-included-15000-micros");
        assert_eq!(Rates::parse(&rates.short()), Some(rates.clone()));
        assert_eq!(rates.rate("eur"), None);
        rates.unit_price_micros.insert(eur, 14_000);
        assert_eq!(rates.short(), "usd-1000-included-15000-micros,eur-14000");
        assert_eq!(Rates::parse(&rates.short()), Some(rates.clone()));
        let in_euros = rates.rate("eur").unwrap();
        assert_eq!((in_euros.included, in_euros.unit_price_micros), (1_000, 14_000));
        for other in [
            "usd-2900-month",
            "",
            "usd-x-included-1-micros",
            "1-included-1-micros",
            "usd-0-included-1-micros,eur",
            "usd-0-included-1-micros,eur-x",
        ] {
            assert_eq!(Rates::parse(other), None, "{other}");
        }
    }
}

//! Products and prices that the catalogue asks for. Pure.

use std::collections::HashMap;

use schema::{Catalogue, Currency, Interval, Plan, PlanTerms, UsageType, prices::ByCurrency};

use super::{amounts, rate::Rates};
use crate::stripe::{names, object::subscription::Price};

/// A product that the catalogue asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedProduct {
    pub(super) id: String,
    /// As customers read it on invoices.
    pub(super) name: String,
    pub(super) plan: String,
}

/// A price that the catalogue asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPrice {
    pub lookup_key: String,
    pub plan: String,
    /// Of the plan's own price: the version, because each version has a price of its own. Prices of usage that several versions
    /// bill alike are shared.
    pub version: Option<String>,
    pub terms: Terms,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Terms {
    /// A fixed price for a month or a year, in the smallest unit of each currency.
    Licensed { interval: Interval, amounts: ByCurrency },
    /// The first units of a month are free; each further unit costs the same.
    Metered { usage_type: UsageType, rates: Rates },
}

/// The plans that Stripe knows: all but Free.
fn paid(catalogue: &Catalogue) -> impl Iterator<Item = &Plan> {
    catalogue.plans().iter().filter(|plan| plan.id != Catalogue::FREE)
}

/// The products that the catalogue asks for: one of each plan, and one of each usage type that it bills by the unit.
pub(super) fn products(catalogue: &Catalogue) -> Vec<WantedProduct> {
    let of_plan = |plan: &Plan| {
        let billed = catalogue.billed(plan).map(|usage_type| WantedProduct {
            id: names::overage_product_id(&plan.id, usage_type),
            name: format!("{}: {}", plan.name, words(usage_type)),
            plan: plan.id.clone(),
        });
        let own = WantedProduct {
            id: names::product_id(&plan.id),
            name: plan.name.clone(),
            plan: plan.id.clone(),
        };
        std::iter::once(own).chain(billed).collect::<Vec<_>>()
    };
    paid(catalogue).flat_map(of_plan).collect()
}

/// The prices that the catalogue asks for.
pub fn wanted(catalogue: &Catalogue) -> Vec<WantedPrice> {
    paid(catalogue).flat_map(|plan| of_plan(catalogue, plan)).collect()
}

/// A plan's own prices, by interval, then the prices of usage types that it bills by the unit.
pub fn of_plan(catalogue: &Catalogue, plan: &Plan) -> Vec<WantedPrice> {
    let terms = PlanTerms::of(catalogue, plan);
    let licensed = terms.intervals().map(|interval| WantedPrice {
        lookup_key: names::lookup_key(&plan.id, interval),
        plan: plan.id.clone(),
        version: Some(terms.short_hash()),
        terms: Terms::Licensed {
            interval,
            amounts: prices_of(&terms, interval),
        },
    });
    let licensed: Vec<_> = licensed.collect();
    let metered = catalogue.billed(plan).map(|usage_type| WantedPrice {
        lookup_key: names::overage_lookup_key(&plan.id, usage_type),
        plan: plan.id.clone(),
        version: None,
        terms: Terms::Metered {
            usage_type,
            rates: Rates::of(&terms, usage_type.name()),
        },
    });
    licensed.into_iter().chain(metered).collect()
}

/// What a plan costs for an interval, in each of its currencies.
pub fn prices_of(terms: &PlanTerms, interval: Interval) -> ByCurrency {
    let price = |currency| Some((currency, terms.price(interval, currency)?));
    terms.currencies().filter_map(price).collect()
}

/// The terms of a price as its metadata name them (`trendit_terms`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedTerms {
    Licensed { interval: Interval, amounts: ByCurrency },
    Metered(Rates),
}

impl WantedPrice {
    /// `None`: the plan itself.
    pub fn usage_type(&self) -> Option<&'static str> {
        match &self.terms {
            Terms::Licensed { .. } => None,
            Terms::Metered { usage_type, .. } => Some(usage_type.name()),
        }
    }

    /// How many months an invoice pays for.
    pub fn interval(&self) -> Interval {
        match &self.terms {
            Terms::Licensed { interval, .. } => *interval,
            Terms::Metered { .. } => Interval::Month,
        }
    }

    /// Whether a price in Stripe has these terms. `known`: versions of prices that were made before prices named their version.
    pub fn is(&self, price: &Price, known: &HashMap<String, String>) -> bool {
        let version = price.metadata.get(names::META_VERSION).or_else(|| known.get(&price.id));
        let is_version = self.version.is_none() || version.is_none() || self.version.as_ref() == version;
        is_version && price.metadata.get(names::META_TERMS) == Some(&self.terms.short())
    }
}

impl Terms {
    /// Distinguishes terms, in a price's metadata.
    pub(super) fn short(&self) -> String {
        match self {
            Self::Licensed { interval, amounts } => {
                let (usd, cents) = (Currency::USD, amounts.get(&Currency::USD).copied().unwrap_or(0));
                amounts::short(format!("{usd}-{cents}-{interval}"), amounts)
            }
            Self::Metered { rates, .. } => rates.short(),
        }
    }
}

impl NamedTerms {
    /// Reads what [`Terms::short`] wrote.
    pub fn parse(short: &str) -> Option<Self> {
        if let Some(rates) = Rates::parse(short) {
            return Some(Self::Metered(rates));
        }
        let (first, mut amounts) = amounts::parse(short)?;
        let (price, interval) = first.rsplit_once('-')?;
        let interval = Interval::ALL.into_iter().find(|known| known.as_str() == interval)?;
        let (currency, cents) = price.split_once('-')?;
        amounts.insert(currency.parse().ok()?, cents.parse().ok()?);
        Some(Self::Licensed { interval, amounts })
    }
}

/// `api_call` as people read it: `api call`.
pub(super) fn words(usage_type: UsageType) -> String {
    usage_type.name().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_as_they_are_written() {
        let usage_type = Catalogue::built_in().usage_types()[0];
        let eur: Currency = "eur".parse().unwrap();
        let rates = Rates {
            included: 1_000,
            unit_price_micros: [(Currency::USD, 15_000), (eur, 14_000)].into(),
        };
        let metered = Terms::Metered {
            usage_type,
            rates: rates.clone(),
        };
        assert_eq!(NamedTerms::parse(&metered.short()), Some(NamedTerms::Metered(rates)));
        for (interval, amounts, short) in [
            (
                Interval::Month,
                ByCurrency::from([(Currency::USD, 2_900)]),
                "usd-2900-month",
            ),
            (Interval::Year, [(Currency::USD, 2_900)].into(), "usd-2900-year"),
            (
                Interval::Year,
                [(Currency::USD, 2_900), (eur, 2_700)].into(),
                "usd-2900-year,eur-2700",
            ),
        ] {
            let licensed = Terms::Licensed {
                interval,
                amounts: amounts.clone(),
            };
            assert_eq!(licensed.short(), short);
            assert_eq!(
                NamedTerms::parse(short),
                Some(NamedTerms::Licensed { interval, amounts })
            );
        }
        for other in [
            "",
            "usd-",
            "usd-x-month",
            "2900-month",
            "usd-2900-week",
            "usd-2900year",
            "usd-1-included-micros",
            "usd-1-month,eur",
        ] {
            assert_eq!(NamedTerms::parse(other), None, "{other}");
        }
    }
}

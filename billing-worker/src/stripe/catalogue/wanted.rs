//! Products and prices that the catalogue asks for. Pure.

use std::collections::HashMap;

use schema::{Catalogue, Currency, Interval, Plan, PlanTerms, UsageType};

use super::rate::Rate;
use crate::stripe::{names, object::subscription::Price};

/// The one currency of the catalogue.
pub const CURRENCY: &str = "usd";

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
    /// A fixed price for a month or a year.
    Licensed { interval: Interval, cents: i64 },
    /// The first `included` units of a month are free; each further unit costs `unit_price_micros`.
    Metered {
        usage_type: UsageType,
        included: i64,
        unit_price_micros: i64,
    },
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
    let licensed = terms.intervals().filter_map(|interval| {
        Some(WantedPrice {
            lookup_key: names::lookup_key(&plan.id, interval),
            plan: plan.id.clone(),
            version: Some(terms.short_hash()),
            terms: Terms::Licensed {
                interval,
                cents: terms.price(interval, Currency::USD)?,
            },
        })
    });
    let licensed: Vec<_> = licensed.collect();
    let metered = catalogue.billed(plan).map(|usage_type| {
        let allowance = plan.allowance(usage_type);
        WantedPrice {
            lookup_key: names::overage_lookup_key(&plan.id, usage_type),
            plan: plan.id.clone(),
            version: None,
            terms: Terms::Metered {
                usage_type,
                included: allowance.limit,
                unit_price_micros: allowance.unit_price_micros,
            },
        }
    });
    licensed.into_iter().chain(metered).collect()
}

/// The terms of a price as its metadata name them (`trendit_terms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedTerms {
    Licensed { interval: Interval, cents: i64 },
    Metered { included: i64, unit_price_micros: i64 },
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
            Self::Licensed { interval, cents } => format!("{CURRENCY}-{cents}-{interval}"),
            Self::Metered {
                included,
                unit_price_micros,
                ..
            } => {
                let rate = Rate {
                    currency: CURRENCY.to_owned(),
                    included: *included,
                    unit_price_micros: *unit_price_micros,
                };
                rate.short()
            }
        }
    }
}

impl NamedTerms {
    /// Reads what [`Terms::short`] wrote.
    pub fn parse(short: &str) -> Option<Self> {
        let rest = short.strip_prefix(CURRENCY)?.strip_prefix('-')?;
        for interval in Interval::ALL {
            let cents = rest
                .strip_suffix(interval.as_str())
                .and_then(|rest| rest.strip_suffix('-'));
            if let Some(cents) = cents {
                return Some(Self::Licensed {
                    interval,
                    cents: cents.parse().ok()?,
                });
            }
        }
        let (included, micros) = rest.strip_suffix("-micros")?.split_once("-included-")?;
        Some(Self::Metered {
            included: included.parse().ok()?,
            unit_price_micros: micros.parse().ok()?,
        })
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
        let metered = Terms::Metered {
            usage_type,
            included: 1_000,
            unit_price_micros: 15_000,
        };
        for (interval, short) in [(Interval::Month, "usd-2900-month"), (Interval::Year, "usd-2900-year")] {
            let terms = Terms::Licensed { interval, cents: 2_900 };
            assert_eq!(terms.short(), short);
            let named = NamedTerms::Licensed { interval, cents: 2_900 };
            assert_eq!(NamedTerms::parse(short), Some(named));
        }
        assert_eq!(
            NamedTerms::parse(&metered.short()),
            Some(NamedTerms::Metered {
                included: 1_000,
                unit_price_micros: 15_000
            })
        );
        for other in [
            "",
            "usd-",
            "usd-x-month",
            "usd-2900-week",
            "usd-2900year",
            "eur-2900-month",
            "usd-1-included-micros",
        ] {
            assert_eq!(NamedTerms::parse(other), None, "{other}");
        }
    }
}

//! What the prices of a subscription in Stripe say about the terms that were sold. Pure.
//!
//! The price of the plan itself names the version (`trendit_version`). Prices that were made before there were versions name their
//! terms (`trendit_terms`).

use std::collections::BTreeMap;

use schema::{
    Currency, Interval, Mode, PlanTerms, PlanVersion,
    catalogue::Allowance,
    prices::{ByCurrency, UsageBilling},
};

use super::fetched::Fetched;
use crate::stripe::{
    catalogue::NamedTerms,
    names,
    object::{schedule::PriceOrId, subscription::Price},
};

/// The prices of a subscription, or of a phase of its schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sold {
    pub plan: String,
    /// Of the plan itself.
    pub price_id: String,
    /// The beginning of the hash of the terms.
    pub version: Option<String>,
    pub interval: Interval,
    /// For the interval.
    price_cents: i64,
    /// By usage type: id, included units, price of a further unit. Without an id: a copy for other meters.
    metered: BTreeMap<String, (Option<String>, i64, i64)>,
}

impl Sold {
    /// `None`: this service did not make the price of the plan.
    fn of<'a>(prices: impl Iterator<Item = &'a Price> + Clone) -> Option<Self> {
        let own = prices
            .clone()
            .find(|price| !price.is_metered() && price.plan().is_some())?;
        let terms = |price: &Price| NamedTerms::parse(price.metadata.get(names::META_TERMS)?);
        let NamedTerms::Licensed { interval, cents } = terms(own)? else {
            return None;
        };
        let plan = own.plan()?;
        // Not those of an earlier plan, whose usage is not billed yet.
        let metered = prices.filter(|price| price.plan() == Some(plan)).filter_map(|price| {
            let usage_type = price.metadata.get(names::META_USAGE_TYPE)?.clone();
            match terms(price)? {
                NamedTerms::Metered {
                    included,
                    unit_price_micros,
                } => {
                    let id = (price.meter_slot() == 0).then(|| price.id.clone());
                    Some((usage_type, (id, included, unit_price_micros)))
                }
                NamedTerms::Licensed { .. } => None,
            }
        });
        Some(Self {
            plan: own.plan()?.to_owned(),
            price_id: own.id.clone(),
            version: own.metadata.get(names::META_VERSION).cloned(),
            interval,
            price_cents: cents,
            metered: metered.collect(),
        })
    }

    /// All that the subscriptions have and that is planned for them.
    pub(super) fn all(fetched: &[Fetched]) -> Vec<Self> {
        let items = fetched
            .iter()
            .filter_map(|one| Self::of(one.subscription.items.data.iter().map(|item| &item.price)));
        let phases = fetched.iter().filter_map(|one| one.schedule.as_ref());
        let phases = phases.flat_map(|schedule| &schedule.phases);
        let phases = phases.filter_map(|phase| Self::of(phase.prices().filter_map(PriceOrId::price)));
        items.chain(phases).collect()
    }

    /// The version that has these terms: that which the price names, or the oldest with the same price in which nothing is billed
    /// otherwise.
    pub(super) fn find<'a>(&self, versions: &'a [PlanVersion]) -> Option<&'a PlanVersion> {
        let named = self.version.as_ref();
        let named = named.and_then(|name| versions.iter().find(|version| version.terms.short_hash() == *name));
        named.or_else(|| versions.iter().find(|version| self.agrees(&version.terms)))
    }

    /// A subscription may lack the price of a usage type: this is a finding, and no other version.
    fn agrees(&self, terms: &PlanTerms) -> bool {
        let agrees = |(usage_type, (_, included, micros)): (&String, &(Option<String>, i64, i64))| {
            terms.usage.get(usage_type).is_some_and(|allowance| {
                allowance.mode != Mode::Limited
                    && (allowance.limit, allowance.unit_price_micros) == (*included, *micros)
            })
        };
        terms.price(self.interval, Currency::USD) == Some(self.price_cents) && self.metered.iter().all(agrees)
    }

    /// The terms of a price that no version has. Stripe does not know limits that are not billed: these are of `oldest`, the first
    /// terms that were stored.
    pub(super) fn terms(&self, oldest: &PlanTerms) -> PlanTerms {
        // Prices that were made before there were versions are monthly. A yearly one that nobody knows keeps the old price per month.
        let (price_cents, prices) = match self.interval {
            Interval::Month => (self.price_cents, BTreeMap::new()),
            Interval::Year => {
                let yearly = ByCurrency::from([(Currency::USD, self.price_cents)]);
                (oldest.price_cents, BTreeMap::from([(Interval::Year, yearly)]))
            }
        };
        let mut terms = PlanTerms {
            price_cents,
            prices,
            usage_billing: UsageBilling::default(),
            unit_prices: BTreeMap::new(),
            ..oldest.clone()
        };
        for (usage_type, allowance) in &mut terms.usage {
            *allowance = match self.metered.get(usage_type) {
                None => Allowance {
                    mode: Mode::Limited,
                    unit_price_micros: 0,
                    ..*allowance
                },
                Some((_, included, micros)) => Allowance {
                    limit: *included,
                    mode: match *included {
                        0 => Mode::Metered,
                        _ => Mode::Overage,
                    },
                    unit_price_micros: *micros,
                },
            };
        }
        terms
    }

    /// Price ids with the usage types that they bill; `None`: the plan itself.
    pub(super) fn prices(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let metered = self.metered.iter();
        let metered = metered.filter_map(|(usage_type, (id, ..))| Some((id.as_deref()?, Some(usage_type.as_str()))));
        std::iter::once((self.price_id.as_str(), None)).chain(metered)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{stripe::object::Reference, subscriptions::versions::tests::pro};

    fn price(id: &str, usage_type: Option<&str>, terms: &str, version: Option<&str>) -> Price {
        let mut metadata = HashMap::from([
            (names::META_PLAN.to_owned(), "pro".to_owned()),
            (names::META_TERMS.to_owned(), terms.to_owned()),
        ]);
        metadata.extend(usage_type.map(|usage_type| (names::META_USAGE_TYPE.to_owned(), usage_type.to_owned())));
        metadata.extend(version.map(|version| (names::META_VERSION.to_owned(), version.to_owned())));
        Price {
            id: id.to_owned(),
            active: true,
            lookup_key: None,
            currency: "usd".to_owned(),
            unit_amount: None,
            product: Reference::Id("trendit_pro".to_owned()),
            recurring: None,
            metadata,
        }
    }

    /// Versions of Pro in which exports are limited, then billed past 100, then dearer.
    fn versions() -> Vec<PlanVersion> {
        let built_in = include_str!("../../../schema/plans.toml");
        let billed = built_in.replacen(
            "usage.export = { limit = 100 }",
            "usage.export = { limit = 100, mode = \"overage\", unit_price_micros = 50_000 }",
            1,
        );
        let dearer = billed.replace("month = 2900 }", "month = 3900 }");
        [pro(1, built_in), pro(2, &billed), pro(3, &dearer)].into()
    }

    #[test]
    fn a_price_gives_the_version_that_it_names_or_else_the_oldest_with_its_terms() {
        let versions = versions();
        let second = versions[1].terms.short_hash();
        let exports = "usd-100-included-50000-micros";
        for (own, version, metered, expected) in [
            ("usd-2900-month", Some(second.as_str()), None, Some(2)),
            ("usd-2900-month", Some("gone"), None, Some(1)),
            ("usd-2900-month", None, None, Some(1)),
            ("usd-2900-month", None, Some(exports), Some(2)),
            ("usd-3900-month", None, Some(exports), Some(3)),
            // It lacks a price.
            ("usd-3900-month", None, None, Some(3)),
            ("usd-1900-month", None, None, None),
            ("usd-29000-year", Some(second.as_str()), None, Some(2)),
            ("usd-29000-year", None, None, None),
            ("usd-2900-month", None, Some("usd-100-included-40000-micros"), None),
        ] {
            let own = price("price_1", None, own, version);
            let metered = metered.map(|terms| price("price_2", Some("export"), terms, None));
            let sold = Sold::of(std::iter::once(&own).chain(&metered)).unwrap();
            let found = sold.find(&versions).map(|version| version.number);
            assert_eq!(found, expected, "{own:?} {metered:?}");
        }
        let foreign = price("price_1", None, "something", None);
        assert_eq!(Sold::of(std::iter::once(&foreign)), None);
    }

    #[test]
    fn terms_that_no_version_has_are_those_of_the_prices_with_the_oldest_limits() {
        let (own, exports) = (
            price("price_1", None, "usd-1900-month", None),
            price("price_2", Some("export"), "usd-0-included-333333-micros", None),
        );
        let sold = Sold::of([&own, &exports].into_iter()).unwrap();
        let terms = sold.terms(&versions()[1].terms);
        assert_eq!(terms.price_cents, 1_900);
        let of = |usage_type: &str| {
            let allowance = terms.usage[usage_type];
            (allowance.mode, allowance.limit, allowance.unit_price_micros)
        };
        assert_eq!(of("export"), (Mode::Metered, 0, 333_333));
        assert_eq!(of("api_call"), (Mode::Limited, 10_000, 0));
        // Nothing pays for exports.
        let sold = Sold::of(std::iter::once(&own)).unwrap();
        let allowance = sold.terms(&versions()[1].terms).usage["export"];
        assert_eq!((allowance.mode, allowance.limit), (Mode::Limited, 100));
    }
}

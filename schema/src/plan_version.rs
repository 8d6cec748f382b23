//! Versions of plans: what a plan costs and allows. A version never changes. A plan whose terms change gets another version, and an
//! account keeps the version that it subscribed to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    Burst, Catalogue, Mode, Plan,
    catalogue::Allowance,
    prices::{ByCurrency, Currency, Interval, UsageBilling},
};

/// One version of a plan, as stored in PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanVersion {
    pub id: Uuid,
    pub plan: String,
    /// Counted from 1 for each plan.
    pub number: i32,
    pub terms: PlanTerms,
}

/// What an account pays and gets. A plan's name, its features, its trial and whether it is listed are no terms: they matter before
/// somebody subscribes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanTerms {
    /// Per month, in US cents.
    pub price_cents: i64,
    pub retention_days: Option<u32>,
    pub burst: Option<Burst>,
    /// By usage type.
    pub usage: BTreeMap<String, Allowance>,
    /// The other prices: per month in other currencies, and per year. Fields that are new are not written when they are empty, so
    /// that hashes of earlier versions stay the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<Interval, ByCurrency>,
    #[serde(default, skip_serializing_if = "UsageBilling::is_monthly")]
    pub usage_billing: UsageBilling,
    /// Prices of a billed unit in other currencies than US dollars, by usage type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unit_prices: BTreeMap<String, ByCurrency>,
}

impl PlanVersion {
    /// As operators write it: `pro@2`.
    pub fn name(&self) -> String {
        format!("{}@{}", self.plan, self.number)
    }
}

impl PlanTerms {
    /// The terms of a plan in this catalogue.
    pub fn of(catalogue: &Catalogue, plan: &Plan) -> Self {
        let usage_types = catalogue.usage_types().iter();
        Self {
            price_cents: plan.price_cents,
            retention_days: plan.retention_days,
            burst: plan.burst,
            usage: usage_types
                .map(|usage_type| (usage_type.name().to_owned(), plan.allowance(*usage_type)))
                .collect(),
            prices: plan.prices.clone(),
            usage_billing: plan.usage_billing,
            unit_prices: plan.unit_prices.clone(),
        }
    }

    /// What the plan costs for an interval, in the currency's smallest unit. `None`: it is not offered.
    pub fn price(&self, interval: Interval, currency: Currency) -> Option<i64> {
        match (interval, currency) {
            (Interval::Month, Currency::USD) => Some(self.price_cents),
            _ => self.prices.get(&interval)?.get(&currency).copied(),
        }
    }

    /// All prices, by interval and currency.
    pub fn all_prices(&self) -> BTreeMap<Interval, ByCurrency> {
        let mut all = self.prices.clone();
        all.entry(Interval::Month)
            .or_default()
            .insert(Currency::USD, self.price_cents);
        all
    }

    /// The intervals for which it can be paid. Free, too, has a price per month: 0.
    pub fn intervals(&self) -> impl Iterator<Item = Interval> {
        let is_offered = |interval: &Interval| self.price(*interval, Currency::USD).is_some();
        Interval::ALL.into_iter().filter(is_offered)
    }

    /// The currencies in which it can be paid. All its prices have them.
    pub fn currencies(&self) -> impl Iterator<Item = Currency> {
        let others = self.prices.get(&Interval::Month).into_iter().flat_map(|by| by.keys());
        std::iter::once(Currency::USD).chain(others.copied())
    }

    /// The price of a billed unit, in millionths of the currency. `None`: the plan is not sold in this currency, or does not know
    /// the usage type.
    pub fn unit_price_micros(&self, usage_type: &str, currency: Currency) -> Option<i64> {
        let allowance = self.usage.get(usage_type)?;
        match (currency, allowance.mode) {
            (Currency::USD, _) => Some(allowance.unit_price_micros),
            (_, Mode::Limited) => Some(0),
            _ => self.unit_prices.get(usage_type)?.get(&currency).copied(),
        }
    }

    /// The usage types whose units are billed.
    pub fn billed(&self) -> impl Iterator<Item = &str> {
        let billed = self
            .usage
            .iter()
            .filter(|(_, allowance)| allowance.mode != Mode::Limited);
        billed.map(|(usage_type, _)| usage_type.as_str())
    }

    /// Equal terms have equal hashes, whoever computes them.
    pub fn hash(&self) -> [u8; 32] {
        let text = serde_json::to_vec(self).expect("terms have only text keys and integers");
        Sha256::digest(text).into()
    }

    /// The beginning of the hash, as prices in Stripe carry it.
    pub fn short_hash(&self) -> String {
        hex::encode(&self.hash()[..8])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terms_make_another_version() {
        let built_in = include_str!("../plans.toml");
        let hash = |text: &str| {
            let catalogue = Catalogue::parse(text).unwrap();
            PlanTerms::of(&catalogue, catalogue.plan("pro").unwrap()).short_hash()
        };
        let first = hash(built_in);
        for (from, to, is_same) in [
            ("name = \"Pro\"", "name = \"Professional\"", true),
            ("month = 2900 }", "month = 2900 }\ntrial_days = 14", true),
            ("\"Advanced analytics\"", "\"Analytics\"", true),
            ("month = 29900 }", "month = 39900 }", true),
            ("month = 2900 }", "month = 3900 }", false),
            ("month = 2900 }", "month = { usd = 2900 } }", true),
            ("month = 2900 }", "month = { usd = 2900, eur = 2700 } }", false),
            ("month = 2900 }", "month = 2900, year = 29000 }", false),
            ("limit = 10_000 ", "limit = 10_001 ", false),
            ("retention_days = 365", "retention_days = 366", false),
            (
                "month = 2900 }",
                "month = 2900 }\nburst = { per_second = 5, size = 5 }",
                false,
            ),
        ] {
            let other = hash(&built_in.replacen(from, to, 1));
            assert_eq!(other == first, is_same, "{from} {to}");
        }
    }

    #[test]
    fn terms_survive_storage() {
        let catalogue = Catalogue::built_in();
        let terms = PlanTerms::of(&catalogue, catalogue.plan("pro").unwrap());
        let stored = serde_json::to_value(&terms).unwrap();
        assert_eq!(serde_json::from_value::<PlanTerms>(stored).unwrap(), terms);
        // The hash is stored: it must not depend on the order of fields in PostgreSQL or on the version of this code.
        assert_eq!(terms.short_hash(), "d77bb0320fa2ebfb");
    }

    #[test]
    fn prices_by_interval_and_currency_survive_storage() {
        let text = include_str!("../plans.toml")
            .replacen(
                "{ month = 2900 }",
                "{ month = { usd = 2900, eur = 2700 }, year = { usd = 29000, eur = 27000 } }\nusage_billing = \"year_end\"",
                1,
            )
            .replacen(
                "usage.export = { limit = 100 }",
                "usage.export = { limit = 100, mode = \"overage\", unit_price_micros = { usd = 1000, eur = 900 } }",
                1,
            );
        let catalogue = Catalogue::parse(&text).unwrap();
        let terms = PlanTerms::of(&catalogue, catalogue.plan("pro").unwrap());
        let stored = serde_json::to_value(&terms).unwrap();
        assert_eq!(serde_json::from_value::<PlanTerms>(stored).unwrap(), terms);
        assert_eq!(terms.short_hash(), "15af0acc00e83d92");

        let eur: Currency = "eur".parse().unwrap();
        let gbp: Currency = "gbp".parse().unwrap();
        assert!(terms.intervals().eq([Interval::Month, Interval::Year]));
        assert!(terms.currencies().eq([Currency::USD, eur]));
        for (interval, currency, cents) in [
            (Interval::Month, Currency::USD, Some(2_900)),
            (Interval::Month, eur, Some(2_700)),
            (Interval::Year, Currency::USD, Some(29_000)),
            (Interval::Year, eur, Some(27_000)),
            (Interval::Year, gbp, None),
        ] {
            assert_eq!(terms.price(interval, currency), cents, "{interval} {currency}");
        }
        for (usage_type, currency, micros) in [
            ("export", Currency::USD, Some(1_000)),
            ("export", eur, Some(900)),
            ("export", gbp, None),
            ("api_call", eur, Some(0)),
        ] {
            assert_eq!(
                terms.unit_price_micros(usage_type, currency),
                micros,
                "{usage_type} {currency}"
            );
        }
    }
}

//! Versions of plans: what a plan costs and allows. A version never changes. A plan whose terms change gets another version, and an
//! account keeps the version that it subscribed to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Burst, Catalogue, Mode, Plan, catalogue::Allowance};

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
    /// Per month.
    pub price_cents: i64,
    pub retention_days: Option<u32>,
    pub burst: Option<Burst>,
    /// By usage type.
    pub usage: BTreeMap<String, Allowance>,
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
            ("price_cents = 2900", "trial_days = 14\nprice_cents = 2900", true),
            ("\"Advanced analytics\"", "\"Analytics\"", true),
            ("price_cents = 29900", "price_cents = 39900", true),
            ("price_cents = 2900\n", "price_cents = 3900\n", false),
            ("limit = 10_000 ", "limit = 10_001 ", false),
            ("retention_days = 365", "retention_days = 366", false),
            (
                "price_cents = 2900\n",
                "price_cents = 2900\nburst = { per_second = 5, size = 5 }\n",
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
}

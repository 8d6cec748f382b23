//! The terms of one account for one usage type: what its plan says, a limit that was agreed with the account, and whether somebody
//! pays. One function decides for gateways, pools and everything that is shown, so that they never differ.

use crate::{
    Burst, Catalogue, CurrentPlan, Mode, Plan, UsageType,
    catalogue::{Allowance, TrialOverage},
    subscription::Unbilled,
};

/// What an account may use of one usage type in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What happens at the limit.
    pub mode: Mode,
    /// Units for each period. 0 for [`Mode::Metered`], which includes no units.
    pub limit: i64,
    /// Why units that the plan bills are not billed now. `mode` says whether they are refused. `None`: they are billed, or the plan
    /// bills none.
    pub unbilled: Option<Unbilled>,
}

/// The limit of an account whose plan has this mode and this limit. `agreed`: the limit agreed with the account.
///
/// An agreed limit replaces the plan's only where the plan bills nothing. Elsewhere the price in Stripe includes what the plan says,
/// whatever was agreed, so the plan's number is the true one.
pub fn limit(mode: Mode, of_plan: i64, agreed: Option<i64>) -> i64 {
    agreed.filter(|_| agreed_applies(mode)).unwrap_or(of_plan)
}

/// Whether a limit that is agreed with an account replaces the limit of a plan with this mode.
pub fn agreed_applies(mode: Mode) -> bool {
    mode == Mode::Limited
}

impl Catalogue {
    /// The terms of an account with this plan. `agreed`: the limit agreed with the account. Where units would be billed and nobody
    /// pays for them, what the plan includes is the limit.
    pub fn terms(&self, current_plan: &CurrentPlan, usage_type: UsageType, agreed: Option<i64>) -> Terms {
        let plan = self.terms_of(current_plan, usage_type);
        let unbilled = current_plan.unbilled.filter(|_| plan.mode != Mode::Limited);
        let mode = match (unbilled, self.trial_overage) {
            (None, _) | (Some(Unbilled::Trial), TrialOverage::Free) => plan.mode,
            (Some(Unbilled::Trial), TrialOverage::Refuse) | (Some(Unbilled::NoSubscription), _) => Mode::Limited,
        };
        Terms {
            mode,
            limit: limit(plan.mode, plan.limit, agreed),
            unbilled,
        }
    }

    /// What the account's version of the plan itself says, or the catalogue if the account has no version. A plan that is missing
    /// from this catalogue allows what Free allows: no account gets unlimited usage by mistake.
    pub fn terms_of(&self, current_plan: &CurrentPlan, usage_type: UsageType) -> Allowance {
        let plan = self.plan_or_free(current_plan);
        let now = plan.map_or(Allowance::NOTHING, |plan| plan.allowance(usage_type));
        let Some(version) = &current_plan.version else {
            return now;
        };
        // A usage type that is newer than the version is not billed: no price of the version is for it.
        version
            .terms
            .usage
            .get(usage_type.name())
            .copied()
            .unwrap_or(Allowance {
                mode: Mode::Limited,
                unit_price_micros: 0,
                ..now
            })
    }

    /// The price of a billed unit in the currency of the account, in millionths of it. `None`: the plan bills no units of this type,
    /// or has no price in this currency.
    pub fn unit_price_micros(&self, current_plan: &CurrentPlan, usage_type: UsageType) -> Option<i64> {
        let currency = current_plan.currency?;
        let micros = match &current_plan.version {
            Some(version) => version.terms.unit_price_micros(usage_type.name(), currency),
            None => self.plan_or_free(current_plan)?.unit_price_micros(usage_type, currency),
        };
        micros.filter(|micros| *micros > 0)
    }

    /// How fast each key of an account with this plan may send requests.
    pub fn burst(&self, current_plan: &CurrentPlan) -> Option<Burst> {
        match &current_plan.version {
            Some(version) => version.terms.burst,
            None => self.plan_or_free(current_plan)?.burst,
        }
    }

    /// How many days the events of an account with this plan are kept. `None`: forever, also if this catalogue does not have the
    /// plan.
    pub fn retention_days(&self, current_plan: &CurrentPlan) -> Option<u32> {
        match &current_plan.version {
            Some(version) => version.terms.retention_days,
            None => self.plan(&current_plan.name)?.retention_days,
        }
    }

    fn plan_or_free(&self, current_plan: &CurrentPlan) -> Option<&Plan> {
        self.plan(&current_plan.name).or_else(|| self.plan(Self::FREE))
    }
}

impl Terms {
    /// `None`: there is no limit.
    pub fn limit_or_none(self) -> Option<i64> {
        (self.mode != Mode::Metered).then_some(self.limit)
    }
}

impl CurrentPlan {
    /// The first second from which usage counts towards what is included. A limit is for the whole period. Usage that is billed
    /// has its segment's prices, which include what the plan says once more.
    pub fn counted_from(&self, mode: Mode) -> i64 {
        match mode {
            Mode::Limited => self.period.start,
            Mode::Overage | Mode::Metered => self.segment,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::{PlanTerms, PlanVersion};

    /// The built-in catalogue, in which Pro bills calls beyond 10,000 and every export.
    fn catalogue() -> Catalogue {
        let text = include_str!("../plans.toml")
            .replacen(
                "{ limit = 10_000 }",
                "{ limit = 10_000, mode = \"overage\", unit_price_micros = 15_000 }",
                1,
            )
            .replacen(
                "{ limit = 100 }\nusage.sentiment_analysis = { limit = 2_000 }",
                "{ mode = \"metered\", unit_price_micros = 5 }\nusage.sentiment_analysis = { limit = 2_000 }",
                1,
            );
        Catalogue::parse(&text).unwrap()
    }

    fn on(plan: &str) -> CurrentPlan {
        CurrentPlan {
            name: plan.to_owned(),
            unbilled: None,
            ..CurrentPlan::at(None, 0)
        }
    }

    #[test]
    fn without_a_payer_what_is_included_is_the_limit() {
        use Mode::{Limited, Metered, Overage};
        use TrialOverage::{Free, Refuse};
        let (trial, nobody) = (Some(Unbilled::Trial), Some(Unbilled::NoSubscription));
        for (usage_type, unbilled, trial_overage, expected, shown) in [
            ("api_call", None, Refuse, (Overage, 10_000), None),
            ("api_call", trial, Refuse, (Limited, 10_000), trial),
            ("api_call", trial, Free, (Overage, 10_000), trial),
            ("api_call", nobody, Refuse, (Limited, 10_000), nobody),
            // The setting is about trials.
            ("api_call", nobody, Free, (Limited, 10_000), nobody),
            ("export", None, Free, (Metered, 0), None),
            ("export", trial, Refuse, (Limited, 0), trial),
            ("export", trial, Free, (Metered, 0), trial),
            ("export", nobody, Free, (Limited, 0), nobody),
            ("sentiment_analysis", trial, Refuse, (Limited, 2_000), None),
            ("sentiment_analysis", nobody, Refuse, (Limited, 2_000), None),
        ] {
            let catalogue = catalogue().with_trial_overage(trial_overage);
            let current_plan = CurrentPlan { unbilled, ..on("pro") };
            // A limit that was agreed does not change what is included.
            for agreed in [None, Some(70_000)]
                .into_iter()
                .take(if shown.is_some() { 2 } else { 1 })
            {
                let terms = catalogue.terms(&current_plan, catalogue.usage_type(usage_type).unwrap(), agreed);
                assert_eq!(
                    (terms.mode, terms.limit),
                    expected,
                    "{usage_type} {unbilled:?} {trial_overage:?}"
                );
                assert_eq!(terms.unbilled, shown, "{usage_type} {unbilled:?} {trial_overage:?}");
            }
        }
    }

    #[test]
    fn an_account_keeps_the_terms_of_its_version() {
        let old = Catalogue::built_in();
        let terms = PlanTerms::of(&old, old.plan("pro").unwrap());
        let version = |terms: PlanTerms| CurrentPlan {
            version: Some(Arc::new(PlanVersion {
                id: Uuid::nil(),
                plan: "pro".to_owned(),
                number: 1,
                terms,
            })),
            ..on("pro")
        };
        // Since then the plan bills calls and exports.
        let catalogue = catalogue();
        let of = |current_plan: &CurrentPlan, usage_type: &str| {
            let terms = catalogue.terms(current_plan, catalogue.usage_type(usage_type).unwrap(), None);
            (terms.mode, terms.limit)
        };
        assert_eq!(of(&version(terms.clone()), "api_call"), (Mode::Limited, 10_000));
        assert_eq!(of(&version(terms.clone()), "export"), (Mode::Limited, 100));
        assert_eq!(of(&on("pro"), "export"), (Mode::Metered, 0));
        // A usage type that the version does not know is not billed.
        let mut older = terms;
        older.usage.clear();
        (older.burst, older.retention_days) = (None, Some(7));
        let older = version(older);
        assert_eq!(of(&older, "api_call"), (Mode::Limited, 10_000));
        assert_eq!(of(&older, "export"), (Mode::Limited, 0));
        assert_eq!(catalogue.retention_days(&older), Some(7));
        assert_eq!(catalogue.retention_days(&on("pro")), Some(365));
    }

    #[test]
    fn units_cost_what_the_plan_says_in_the_currency_of_the_account() {
        let text = include_str!("../plans.toml")
            .replacen("{ month = 2900 }", "{ month = { usd = 2900, eur = 2700 } }", 1)
            .replacen(
                "usage.export = { limit = 100 }",
                "usage.export = { limit = 100, mode = \"overage\", unit_price_micros = { usd = 50_000, eur = 45_000 } }",
                1,
            );
        let catalogue = Catalogue::parse(&text).unwrap();
        let version = PlanVersion {
            id: Uuid::nil(),
            plan: "pro".to_owned(),
            number: 1,
            terms: PlanTerms::of(&catalogue, catalogue.plan("pro").unwrap()),
        };
        let versions = [None, Some(Arc::new(version))];
        for (currency, usage_type, expected) in [
            (Some("usd"), "export", Some(50_000)),
            (Some("eur"), "export", Some(45_000)),
            (Some("gbp"), "export", None),
            (None, "export", None),
            (Some("eur"), "api_call", None),
        ] {
            for version in &versions {
                let current_plan = CurrentPlan {
                    currency: currency.map(|currency| currency.parse().unwrap()),
                    version: version.clone(),
                    ..on("pro")
                };
                let found = catalogue.unit_price_micros(&current_plan, catalogue.usage_type(usage_type).unwrap());
                assert_eq!(found, expected, "{currency:?} {usage_type}");
            }
        }
    }

    #[test]
    fn an_agreed_limit_applies_only_where_the_plan_bills_nothing() {
        let catalogue = catalogue();
        for (plan, usage_type, agreed, expected) in [
            ("pro", "sentiment_analysis", None, (Mode::Limited, 2_000)),
            ("pro", "sentiment_analysis", Some(7), (Mode::Limited, 7)),
            ("free", "api_call", Some(0), (Mode::Limited, 0)),
            ("gone", "export", None, (Mode::Limited, 5)),
            ("gone", "export", Some(7), (Mode::Limited, 7)),
            ("pro", "api_call", None, (Mode::Overage, 10_000)),
            ("pro", "api_call", Some(900_000), (Mode::Overage, 10_000)),
            ("pro", "export", Some(900_000), (Mode::Metered, 0)),
        ] {
            let terms = catalogue.terms(&on(plan), catalogue.usage_type(usage_type).unwrap(), agreed);
            assert_eq!((terms.mode, terms.limit), expected, "{plan} {usage_type} {agreed:?}");
        }
    }
}

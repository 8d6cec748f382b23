//! The limits in force for an account: its overrides, or else its plan's limits.

use std::collections::HashMap;

use quota_store::limits;
use schema::{AccountId, Catalogue, CurrentPlan, Mode, UsageType};
use serde::Serialize;
use sqlx::PgExecutor;

use crate::error::Error;

/// Fifteen digits: the largest value that Stripe accepts in a meter event.
pub const UNITS_MAX: i64 = 999_999_999_999_999;

/// The limit in force for one usage type in the running period.
#[derive(Clone, Debug, Serialize)]
pub struct LimitInForce {
    pub usage_type: &'static str,
    pub mode: &'static str,
    /// Units per period; `None`: no limit.
    pub limit: Option<i64>,
    /// The limit is an override for this account and replaces the plan's.
    pub overridden: bool,
    /// Spent, or held by gateways.
    pub granted_units: i64,
}

/// Returns the limits in force, in the catalogue's order.
pub async fn in_force(
    db: impl PgExecutor<'_>,
    catalogue: &Catalogue,
    account: AccountId,
    current_plan: &CurrentPlan,
) -> Result<Vec<LimitInForce>, Error> {
    let usage_types = catalogue.usage_types();
    let names: Vec<_> = usage_types.iter().map(|known| known.name().to_owned()).collect();
    let rows = limits::of_account(db, account, &names, current_plan.period.start).await?;
    let rows: HashMap<_, _> = rows.iter().map(|row| (row.usage_type.as_str(), row)).collect();
    let in_force = |usage_type: &UsageType| {
        let row = rows.get(usage_type.name());
        let agreed = row.and_then(|row| row.agreed_units);
        let mode = mode(catalogue, &current_plan.name, *usage_type);
        LimitInForce {
            usage_type: usage_type.name(),
            mode: mode.as_str(),
            limit: limit_or_none(catalogue, &current_plan.name, *usage_type, agreed),
            overridden: agreed.is_some(),
            granted_units: row.and_then(|row| row.granted_units).unwrap_or(0),
        }
    };
    Ok(catalogue.usage_types().iter().map(in_force).collect())
}

/// The limit in force for one usage type on a plan; `None`: no limit.
pub fn limit_or_none(catalogue: &Catalogue, plan: &str, usage_type: UsageType, agreed: Option<i64>) -> Option<i64> {
    (mode(catalogue, plan, usage_type) != Mode::Metered).then(|| limit(catalogue, plan, usage_type, agreed))
}

/// The override, or else the plan's limit. A plan that is missing from this catalogue allows what Free allows: no account gets
/// unlimited usage by mistake.
pub fn limit(catalogue: &Catalogue, plan: &str, usage_type: UsageType, agreed: Option<i64>) -> i64 {
    agreed.unwrap_or_else(|| allowance(catalogue, plan, usage_type).map_or(0, |allowance| allowance.limit))
}

fn mode(catalogue: &Catalogue, plan: &str, usage_type: UsageType) -> Mode {
    allowance(catalogue, plan, usage_type).map_or(Mode::Limited, |allowance| allowance.mode)
}

fn allowance(catalogue: &Catalogue, plan: &str, usage_type: UsageType) -> Option<schema::catalogue::Allowance> {
    let plan = catalogue.plan(plan).or_else(|| catalogue.plan(Catalogue::FREE))?;
    Some(plan.allowance(usage_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_replaces_the_plans_limit_even_if_it_is_lower() {
        let catalogue = Catalogue::built_in();
        let export = catalogue.usage_type("export").unwrap();
        for (plan, agreed, expected) in [
            ("pro", None, 100),
            ("pro", Some(7), 7),
            ("free", Some(0), 0),
            ("free", None, 5),
            ("gone", None, 5),
        ] {
            assert_eq!(limit(&catalogue, plan, export, agreed), expected, "{plan} {agreed:?}");
        }
    }
}

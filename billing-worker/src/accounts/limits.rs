//! The limits in force for an account: [`Catalogue::terms`] with what is stored.

use std::collections::HashMap;

use quota_store::limits;
use schema::{AccountId, Catalogue, CurrentPlan, UsageType, subscription::Unbilled, terms};
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
    /// Price of a unit that is billed, in millionths of the currency of the account; `None`: the account's version of the plan bills none.
    pub unit_price_micros: Option<i64>,
    /// The limit is an override for this account and replaces the plan's.
    pub overridden: bool,
    /// An override that does not apply, because the plan bills the usage type and its price includes what the plan says.
    pub unapplied_override: Option<i64>,
    /// Why units that the plan bills are not billed now: `trial`, `no_subscription`. With the mode `limited` they are refused.
    pub unbilled: Option<&'static str>,
    /// Spent, or held by gateways.
    pub granted_units: i64,
    /// The first second from which usage counts towards it, in Unix seconds.
    #[serde(skip)]
    pub counted_from: i64,
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
    let limit = |usage_type: &UsageType| {
        let row = rows.get(usage_type.name());
        let agreed = row.and_then(|row| row.agreed_units);
        let in_force = catalogue.terms(current_plan, *usage_type, agreed);
        let of_plan = catalogue.terms_of(current_plan, *usage_type);
        let applies = terms::agreed_applies(of_plan.mode);
        LimitInForce {
            usage_type: usage_type.name(),
            mode: in_force.mode.as_str(),
            limit: in_force.limit_or_none(),
            unit_price_micros: catalogue.unit_price_micros(current_plan, *usage_type),
            overridden: agreed.is_some() && applies,
            unapplied_override: agreed.filter(|_| !applies),
            unbilled: in_force.unbilled.map(Unbilled::as_str),
            counted_from: current_plan.counted_from(in_force.mode),
            granted_units: row.and_then(|row| row.granted_units).unwrap_or(0),
        }
    };
    Ok(usage_types.iter().map(limit).collect())
}

//! `GET /billing/usage`: the usage of the running period, as recorded.

use std::collections::HashMap;

use axum::{Json, extract::State};
use clickhouse::Row;
use schema::{AccountId, period::instant};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{PublicApi, authenticate::Caller};
use crate::{accounts::limits, error::Error, subscriptions::current};

#[derive(Serialize)]
pub(super) struct Usage {
    account_id: AccountId,
    tier: String,
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
    usage: Vec<UsageOfType>,
}

#[derive(Serialize)]
struct UsageOfType {
    usage_type: &'static str,
    mode: &'static str,
    /// Sum of the units in ClickHouse. Requests of the last second may be missing.
    current_usage: i64,
    /// Null: no limit.
    limit: Option<i64>,
    /// Price of a billed unit, in millionths of the currency's main unit. Null: none is billed.
    unit_price_micros: Option<i64>,
    /// Units above the limit, which are billed.
    overage: i64,
    /// Why units that the plan bills are not billed now.
    unbilled: Option<&'static str>,
    /// Recorded events: requests and corrections.
    events: u64,
}

#[derive(Row, Deserialize)]
struct Sum {
    usage_type: String,
    cost_units: i64,
    events: u64,
}

pub(super) async fn show(State(api): State<PublicApi>, Caller(account): Caller) -> Result<Json<Usage>, Error> {
    let billing = &api.billing;
    let current_plan = current::plan(&billing.admin.db, account, billing.clock.now_s()).await?;
    let in_force = limits::in_force(&billing.admin.db, &billing.admin.catalogue, account, &current_plan).await?;
    let sums = billing
        .admin
        .clickhouse
        .query(
            "select toString(usage_type) as usage_type, sum(cost_units) as cost_units, sum(events) as events from usage
             where account_id = toUUID(?) and period_start = toDateTime(?, 'UTC') group by usage_type",
        )
        .bind(account.to_string())
        .bind(current_plan.period.start)
        .fetch_all::<Sum>()
        .await
        .map_err(|error| Error::ClickHouse(error.to_string()))?;
    let sums: HashMap<String, Sum> = sums.into_iter().map(|sum| (sum.usage_type.clone(), sum)).collect();
    let usage = in_force.into_iter().map(|limit| {
        let (current_usage, events) = sums
            .get(limit.usage_type)
            .map_or((0, 0), |sum| (sum.cost_units, sum.events));
        UsageOfType {
            usage_type: limit.usage_type,
            mode: limit.mode,
            current_usage,
            overage: match (limit.mode, limit.unbilled) {
                ("limited", _) | (_, Some(_)) => 0,
                _ => (current_usage - limit.limit.unwrap_or(0)).max(0),
            },
            unbilled: limit.unbilled,
            limit: limit.limit,
            unit_price_micros: limit.unit_price_micros,
            events,
        }
    });
    Ok(Json(Usage {
        account_id: account,
        usage: usage.collect(),
        tier: current_plan.name,
        period_start: instant(current_plan.period.start),
        period_end: instant(current_plan.period.end),
    }))
}

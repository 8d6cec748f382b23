//! `GET /billing/usage`: the usage of the running period, as recorded.

mod segments;

use axum::{Json, extract::State};
use clickhouse::Row;
use quota_store::segments as stored;
use schema::{AccountId, period::instant};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use self::segments::Segment;
use super::{PublicApi, authenticate::Caller};
use crate::{
    accounts::limits,
    error::Error,
    spend_caps::cap::{self, SpendCap},
    subscriptions::{current, paying::Paying},
};

#[derive(Serialize)]
pub(super) struct Usage {
    account_id: AccountId,
    tier: String,
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
    #[serde(flatten)]
    paying: Paying,
    #[serde(with = "time::serde::rfc3339")]
    computed_at: OffsetDateTime,
    usage: Vec<UsageOfType>,
    /// Cost of the usage of all segments, in the currency's smallest unit.
    usage_cents: i64,
    /// The most that the account wants to pay. Null: there is no cap.
    spend_cap: Option<SpendCap>,
    segments: Vec<Segment>,
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
    /// Of the segment, in Unix seconds.
    start: i64,
    cost_units: i64,
    events: u64,
}

pub(super) async fn show(State(api): State<PublicApi>, Caller(account): Caller) -> Result<Json<Usage>, Error> {
    let billing = &api.billing;
    let now = billing.clock.now_s();
    let current_plan = current::plan(&billing.admin.db, account, now).await?;
    let in_force = limits::in_force(&billing.admin.db, &billing.admin.catalogue, account, &current_plan).await?;
    let period_start = current_plan.period.start;
    let segments = stored::within(&billing.admin.db, &[account], period_start).await?;
    let of_period = segments.iter().filter(|(_, period)| **period == period_start);
    let mut starts: Vec<i64> = of_period.map(|((_, start), _)| *start).collect();
    starts.push(period_start);
    let sums = billing
        .admin
        .clickhouse
        .query(
            "select toString(usage_type) as usage_type, toInt64(period_start) as start,
                 sum(cost_units) as cost_units, sum(events) as events from usage
             where account_id = toUUID(?) and period_start in ? group by usage_type, period_start",
        )
        .bind(account.to_string())
        .bind(&starts)
        .fetch_all::<Sum>()
        .await
        .map_err(|error| Error::ClickHouse(error.to_string()))?;
    let billed = stored::billed(&billing.admin.db, &[account], period_start).await?;
    let (segments, usage_cents) = segments::read(&billing.admin.db, account, &current_plan, &sums).await?;
    let spend_cap = cap::find(&billing.admin, account, now).await?;
    let usage = in_force.into_iter().map(|limit| {
        let counted = sums
            .iter()
            .filter(|sum| sum.usage_type == limit.usage_type && sum.start >= limit.counted_from)
            // Units that an earlier plan billed do not count towards a limit.
            .filter(|sum| {
                limit.mode != "limited"
                    || limit.unbilled.is_some()
                    || !billed.contains(&(account, sum.start, sum.usage_type.clone()))
            });
        let (current_usage, events) = counted.fold((0, 0), |(units, events), sum| {
            (units + sum.cost_units, events + sum.events)
        });
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
        paying: Paying::read(&billing.admin.db, account, &current_plan).await?,
        tier: current_plan.name,
        period_start: instant(current_plan.period.start),
        period_end: instant(current_plan.period.end),
        computed_at: instant(now),
        usage_cents,
        spend_cap,
        segments,
    }))
}

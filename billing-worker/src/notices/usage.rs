//! Reads the usage of running periods. Gateways hold unspent units, so granted units only show which accounts to check; a notice
//! reports the sum of stored usage.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    time::Duration,
};

use anyhow::{Context, Result};
use clickhouse::{Client, Row};
use quota_store::{pools::PoolKey, segments};
use schema::{AccountId, Catalogue, CurrentPlan, Mode, Period, UsageType, period::instant};
use serde::Deserialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::threshold::Thresholds;
use crate::subscriptions::current;

/// A comparison is skipped if ClickHouse does not answer within this time.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest month.
const MONTH_S: i64 = 31 * 86_400;

/// Usage that is counted together. A counter also marks where the next page begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counter {
    pub account: AccountId,
    pub usage_type: String,
    pub period_start: i64,
}

/// A counter of the account's running period, with the limit in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    pub account: AccountId,
    pub usage_type: UsageType,
    /// Usage that is billed above the limit is counted from the start of its segment.
    pub period: Period,
    pub limit: i64,
    /// Units that the plan bills are not billed now, and count towards the limit.
    pub is_unbilled: bool,
}

impl Counter {
    /// Sorts before all others.
    pub const FIRST: Self = Self {
        account: AccountId::NIL,
        usage_type: String::new(),
        period_start: 0,
    };
}

impl Limited {
    pub fn counter(&self) -> Counter {
        Counter {
            account: self.account,
            usage_type: self.usage_type.name().to_owned(),
            period_start: self.period.start,
        }
    }
}

/// Stored units of a counter.
#[derive(Row, Deserialize)]
struct Stored {
    #[serde(with = "clickhouse::serde::uuid")]
    account: Uuid,
    usage_type: String,
    start: i64,
    units: i64,
}

/// Returns one page of the pools whose granted units reach a threshold without a notice: their usage may have reached it too.
pub async fn candidates(
    db: &PgPool,
    thresholds: &Thresholds,
    after: &Counter,
    now: i64,
    page: i64,
) -> Result<Vec<Counter>> {
    let after = PoolKey {
        account: after.account,
        usage_type: after.usage_type.clone(),
        period_start: after.period_start,
    };
    let lowest = i64::from(thresholds.lowest());
    let pools = quota_store::limits::without_notice(db, &thresholds.percents(), lowest, &after, now, page)
        .await
        .context("looking for pools near their limits")?;
    let counters = pools.into_iter().map(|pool| Counter {
        account: pool.account,
        usage_type: pool.usage_type,
        period_start: pool.period_start,
    });
    Ok(counters.collect())
}

/// Keeps the counters that belong to the account's period at `now` and have a limit. For example, the pool of the month in which
/// an account left Free belongs to no current period.
pub async fn limited(db: &PgPool, catalogue: &Catalogue, counters: &[Counter], now: i64) -> Result<Vec<Limited>> {
    let mut accounts: Vec<_> = counters.iter().map(|counter| counter.account).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let current = current::subscriptions(db, &accounts)
        .await
        .context("reading subscriptions")?;
    let ids: Vec<_> = accounts.iter().map(|account| account.0).collect();
    let agreed = sqlx::query!(
        "select account_id, usage_type, limit_units from limit_overrides where account_id = any($1)",
        &ids
    )
    .fetch_all(db)
    .await
    .context("reading agreed limits")?;
    let agreed: HashMap<_, _> = agreed
        .iter()
        .map(|row| ((AccountId(row.account_id), row.usage_type.as_str()), row.limit_units))
        .collect();
    let limited = |counter: &Counter| {
        let usage_type = catalogue.usage_type(&counter.usage_type)?;
        let current_plan = CurrentPlan::at(current.get(&counter.account), now);
        let agreed = agreed.get(&(counter.account, usage_type.name())).copied();
        let terms = catalogue.terms(&current_plan, usage_type, agreed);
        let period = Period {
            start: current_plan.counted_from(terms.mode),
            ..current_plan.period
        };
        let limit = terms.limit_or_none().filter(|_| period.start == counter.period_start)?;
        Some(Limited {
            account: counter.account,
            usage_type,
            period,
            limit,
            is_unbilled: current_plan.unbilled.is_some(),
        })
    };
    Ok(counters.iter().filter_map(limited).collect())
}

/// Returns the stored units of these counters; a counter without units is missing. 1,000 accounts among 10 M rows: 24 ms.
pub async fn stored(db: &PgPool, clickhouse: &Client, counters: &[Limited]) -> Result<HashMap<Counter, i64>> {
    let Some(oldest) = counters.iter().map(|counter| counter.period.start).min() else {
        return Ok(HashMap::new());
    };
    let mut accounts: Vec<_> = counters.iter().map(|counter| counter.account).collect();
    accounts.dedup();
    let segments = segments::within(db, &accounts, oldest)
        .await
        .context("reading segments")?;
    let billed = segments::billed(db, &accounts, oldest)
        .await
        .context("reading the prices of segments")?;
    let rows = clickhouse
        .query(
            "select account_id as account, toString(usage_type) as usage_type, toInt64(toUnixTimestamp(period_start)) as start,
                 sum(cost_units) as units
             from usage where account_id in ? and period_start >= toDateTime(?, 'UTC')
             group by account_id, usage_type, period_start",
        )
        .bind(accounts.iter().map(ToString::to_string).collect::<Vec<_>>())
        .bind(oldest)
        .with_setting("max_execution_time", STATEMENT_TIMEOUT.as_secs().to_string())
        .fetch_all::<Stored>();
    let rows = bounded(rows)
        .await
        .context("summing the usage of accounts near their limits")?;
    // A limit is for the whole period. Units that an earlier plan billed do not count.
    let mut stored: HashMap<Counter, i64> = HashMap::new();
    let unbilled = counters.iter().filter(|counter| counter.is_unbilled);
    let unbilled: HashSet<_> = unbilled.map(|counter| counter.account).collect();
    for (mut counter, units) in rows.into_iter().map(Stored::counted) {
        let is_billed = billed.contains(&(counter.account, counter.period_start, counter.usage_type.clone()));
        if is_billed && !unbilled.contains(&counter.account) {
            continue;
        }
        let period = segments.get(&(counter.account, counter.period_start));
        counter.period_start = period.copied().unwrap_or(counter.period_start);
        *stored.entry(counter).or_default() += units;
    }
    Ok(stored)
}

/// Returns the usage types that some version of a plan bills above the limit, each with the units from which a notice may be due.
/// Gateways use no pool for them, so there is no pool to check.
pub async fn overage(db: &PgPool, catalogue: &Catalogue, thresholds: &Thresholds) -> Result<Vec<(UsageType, i64)>> {
    let lowest = sqlx::query!(
        r#"select usage_type, min(limit_units) as "limit!" from plan_version_limits where mode = $1 group by usage_type"#,
        Mode::Overage.as_str()
    )
    .fetch_all(db)
    .await
    .context("reading the lowest limits")?;
    let first = lowest.iter().filter_map(|row| {
        Some((
            catalogue.usage_type(&row.usage_type)?,
            thresholds.first_units(row.limit),
        ))
    });
    Ok(first.collect())
}

/// Returns the start of the oldest period that may be running.
pub async fn running_since(db: &PgPool, now: i64) -> Result<i64> {
    let oldest = sqlx::query_scalar!(
        "select min(period_start) from subscriptions where is_current and period_end > $1",
        instant(now)
    )
    .fetch_one(db)
    .await
    .context("reading the oldest running period")?;
    let month_ago = now - MONTH_S;
    Ok(oldest.map_or(month_ago, |oldest| oldest.unix_timestamp().min(month_ago)))
}

/// Returns one page of the counters of these usage types, in periods from `since` on, with at least this many units, and their
/// units.
pub async fn counted(
    clickhouse: &Client,
    types: &[(UsageType, i64)],
    since: i64,
    after: &Counter,
    page: usize,
) -> Result<Vec<(Counter, i64)>> {
    let names: Vec<_> = types.iter().map(|(usage_type, _)| usage_type.name()).collect();
    let first: Vec<_> = types.iter().map(|(_, units)| *units).collect();
    // Reads the sums from p_month and usage_daily, not from the rows. Worst case, 10 M rows of 100,000 accounts with
    // hardly two a day each: 0.3 s, against 0.5 s without the projection. Ordered by text, because the order of UUIDs
    // differs between versions of the server.
    let rows = clickhouse
        .query(
            "select account_id as account, toString(usage_type) as usage_type, toInt64(toUnixTimestamp(period_start)) as start,
                 sum(cost_units) as units
             from usage where usage_type in ? and period_start >= toDateTime(?, 'UTC')
             group by account_id, usage_type, period_start
             having units >= transform(usage_type, ?, ?, toInt64(0))
                 and (toString(account_id), usage_type, start) > (?, ?, ?)
             order by toString(account_id), usage_type, start limit ?",
        )
        .bind(&names)
        .bind(since)
        .bind(&names)
        .bind(first)
        .bind(after.account.to_string())
        .bind(&after.usage_type)
        .bind(after.period_start)
        .bind(page)
        .with_setting("max_execution_time", STATEMENT_TIMEOUT.as_secs().to_string())
        .fetch_all::<Stored>();
    let rows = bounded(rows)
        .await
        .context("summing usage that is billed above its limit")?;
    Ok(rows.into_iter().map(Stored::counted).collect())
}

impl Stored {
    fn counted(self) -> (Counter, i64) {
        let counter = Counter {
            account: AccountId(self.account),
            usage_type: self.usage_type,
            period_start: self.start,
        };
        (counter, self.units)
    }
}

async fn bounded<T>(statement: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(STATEMENT_TIMEOUT, statement).await;
    Ok(answer.with_context(|| format!("no answer from ClickHouse in {STATEMENT_TIMEOUT:?}"))??)
}

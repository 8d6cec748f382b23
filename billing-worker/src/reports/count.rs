//! Sums of billing periods in ClickHouse, and the corrections among them.

use std::{collections::HashMap, fmt::Write, time::Duration};

use anyhow::{Context, Result};
use clickhouse::{Client, Row};
use protocol::reports::identifier::LineId;
use schema::AccountId;
use serde::Deserialize;
use tokio::time::timeout;
use uuid::Uuid;

/// One query. A page of accounts takes some 50 ms.
const PATIENCE: Duration = Duration::from_secs(60);

/// Periods of one query. ClickHouse reads 256 KiB of a query (`max_query_size`).
const PERIODS_MAX: usize = 2_000;

/// An account and the first second of one of its periods.
pub type AccountPeriod = (AccountId, i64);

#[derive(Row, Deserialize)]
struct Counted {
    #[serde(with = "clickhouse::serde::uuid")]
    account_id: Uuid,
    usage_type: String,
    /// Unix seconds.
    start: i64,
    units: i64,
}

/// `sum(cost_units)` of these periods. A line without usage is absent.
pub async fn sums(clickhouse: &Client, periods: &[AccountPeriod]) -> Result<HashMap<LineId, i64>> {
    let query = |condition: &str| {
        format!(
            "select account_id, toString(usage_type) as usage_type, toInt64(period_start) as start,
                 sum(cost_units) as units
             from usage where {condition} group by account_id, usage_type, period_start"
        )
    };
    counted(clickhouse, periods, query)
        .await
        .context("summing the usage of billing periods")
}

/// `sum(cost_units)` of what was stored before a time (Unix seconds); read from the rows, which are kept until a period is frozen.
pub async fn sums_before(clickhouse: &Client, periods: &[AccountPeriod], before: i64) -> Result<HashMap<LineId, i64>> {
    let query = |condition: &str| {
        format!(
            "select account_id, toString(usage_type) as usage_type, toInt64(period_start) as start,
                 sum(cost_units) as units
             from usage_events where {condition} and ingested_at < fromUnixTimestamp({before})
             group by account_id, usage_type, period_start"
        )
    };
    counted(clickhouse, periods, query)
        .await
        .context("summing the usage of some time ago")
}

/// The sum of the corrections (0 or negative) of these periods; read from the rows, which are kept until a period is frozen.
pub async fn corrections(clickhouse: &Client, periods: &[AccountPeriod]) -> Result<HashMap<LineId, i64>> {
    let query = |condition: &str| {
        format!(
            "select account_id, toString(usage_type) as usage_type, toInt64(period_start) as start,
                 sum(cost_units) as units
             from usage_events where {condition} and corrects != toUUID('{}') and cost_units < 0
             group by account_id, usage_type, period_start",
            Uuid::nil()
        )
    };
    counted(clickhouse, periods, query)
        .await
        .context("summing the corrections of billing periods")
}

async fn counted(
    clickhouse: &Client,
    periods: &[AccountPeriod],
    query: impl Fn(&str) -> String,
) -> Result<HashMap<LineId, i64>> {
    let line = |row: Counted| {
        let line = LineId {
            account: AccountId(row.account_id),
            start: row.start,
            usage_type: row.usage_type,
        };
        (line, row.units)
    };
    let mut counted = HashMap::new();
    for periods in periods.chunks(PERIODS_MAX) {
        let query = query(&condition(periods));
        let rows = timeout(PATIENCE, clickhouse.query_raw(&query).fetch_all::<Counted>())
            .await
            .with_context(|| format!("no response from ClickHouse within {PATIENCE:?}"))??;
        counted.extend(rows.into_iter().map(line));
    }
    Ok(counted)
}

/// Contains ids and numbers only, nothing that a client chose.
fn condition(periods: &[AccountPeriod]) -> String {
    let (mut accounts, mut pairs) = (String::new(), String::new());
    for (n, (account, start)) in periods.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        // Writing to a string does not fail.
        write!(accounts, "{comma}'{account}'").ok();
        write!(pairs, "{comma}('{account}',{start})").ok();
    }
    // The order key finds rows by the first condition.
    format!("account_id in ({accounts}) and (account_id, period_start) in ({pairs})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_query_is_one_that_clickhouse_reads() {
        let periods: Vec<_> = (0..PERIODS_MAX).map(|_| (AccountId::new(), 1_999_999_999)).collect();
        assert!(condition(&periods).len() < 250 * 1_024);
    }
}

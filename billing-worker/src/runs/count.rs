//! Counts what leases have spent: their events in ClickHouse, both stored events and dropped duplicates.

use std::{collections::HashMap, fmt::Write, time::Duration};

use anyhow::{Context, Result};
use clickhouse::{Client, Row};
use schema::{AccountId, LeaseId};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

/// For one query, which may read all rows of its accounts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Maximum difference between the clocks of an ingestor and of PostgreSQL.
const CLOCKS: Duration = Duration::from_secs(24 * 3_600);

/// Up to this many leases, the skip index on leases is faster; with more, checking it for each granule costs more than it
/// saves. Measured with 5 M rows of 1,000 accounts: one lease 8 ms with the index and 30 ms without, 500 leases 340 ms with it
/// and 110 ms without. Without the index, counting reads three columns of the accounts' rows once, however many leases there are.
const INDEXED_MAX: usize = 16;

#[derive(Row, Deserialize)]
struct Counted {
    #[serde(with = "clickhouse::serde::uuid")]
    lease_id: Uuid,
    units: i64,
}

/// Returns the spent units of each lease that a run took since `since`. A lease that is missing has spent none. Each stream
/// position counts once, so a range that was inserted twice counts once even before the ingestor's audit repairs it.
pub async fn spent(
    clickhouse: &Client,
    leases: &[(AccountId, LeaseId)],
    since: OffsetDateTime,
) -> Result<HashMap<LeaseId, i64>> {
    if leases.is_empty() {
        return Ok(HashMap::new());
    }
    let query = query(leases, since);
    let counting = clickhouse
        .query_raw(&query)
        // For the same result on any replica.
        .with_setting("select_sequential_consistency", "1")
        .with_setting("use_skip_indexes", if leases.len() > INDEXED_MAX { "0" } else { "1" })
        .fetch_all::<Counted>();
    let rows = timeout(PATIENCE, counting)
        .await
        .with_context(|| format!("counting leases: no answer from ClickHouse within {PATIENCE:?}"))?
        .context("counting leases")?;
    Ok(rows.into_iter().map(|row| (LeaseId(row.lease_id), row.units)).collect())
}

/// Finds rows by account, the first column of the order key, and only in parts with rows of the run's time. It does not filter
/// by `ts`, the gateway's clock: with a wrong clock an event would be missed, and its units spent twice.
fn query(leases: &[(AccountId, LeaseId)], since: OffsetDateTime) -> String {
    let accounts = list(leases.iter().map(|(account, _)| account.0), true);
    let ids = list(leases.iter().map(|(_, lease)| lease.0), false);
    let since_ms = (since - CLOCKS).unix_timestamp() * 1_000;
    let of = |table: &str| {
        format!(
            "select generation, shard, stream_seq, idx, lease_id, cost_units from {table}
             where account_id in ({accounts}) and lease_id in ({ids})
               and ingested_at >= fromUnixTimestamp64Milli({since_ms})"
        )
    };
    format!(
        "select lease_id, sum(cost_units) as units from (select distinct * from ({} union all {})) group by lease_id",
        of("usage_events"),
        of("usage_duplicates")
    )
}

/// Contains ids only, no text that a client chose. `sorted`: equal neighbours appear once.
fn list(ids: impl Iterator<Item = Uuid>, sorted: bool) -> String {
    let (mut text, mut last) = (String::new(), None);
    for id in ids.filter(|id| !(sorted && last.replace(*id) == Some(*id))) {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        write!(text, "{comma}'{id}'").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn largest_query_is_one_that_clickhouse_takes() {
        let lease = |_| (AccountId::new(), LeaseId::new());
        let leases: Vec<_> = (0..super::super::leases::PAGE).map(lease).collect();
        // `max_query_size`
        assert!(query(&leases, datetime!(2026-11-24 0:00 UTC)).len() < 262_144);
    }

    #[test]
    fn accounts_are_named_once() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(list([a, a, b].into_iter(), true), format!("'{a}','{b}'"));
    }
}

//! Reads dropped duplicates from ClickHouse.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use clickhouse::{Client, Row};
use serde::Deserialize;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Shard, StreamPosition};

/// For one query, which usually takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Row, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Duplicate {
    pub stream_seq: u64,
    pub idx: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    pub event_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub account_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub lease_id: Uuid,
    pub usage_type: String,
    /// Unix seconds.
    pub period_start: i64,
    pub cost_units: i64,
}

impl Duplicate {
    pub(super) fn position(&self) -> StreamPosition {
        StreamPosition {
            stream_seq: self.stream_seq,
            idx: self.idx,
        }
    }

    /// Returns whether a pool paid for the event.
    pub(super) fn was_leased(&self) -> bool {
        !self.lease_id.is_nil() && self.cost_units > 0
    }
}

/// Returns the last duplicate of every shard in stream order, from the last forty days: older pools no longer matter.
pub(super) async fn last_of_each(clickhouse: &Client) -> Result<BTreeMap<Shard, StreamPosition>> {
    #[derive(Row, Deserialize)]
    struct Last {
        generation: u32,
        shard: u16,
        last: (u64, u32),
    }
    let sql = "select generation, shard, max((stream_seq, idx)) as last from usage_duplicates
               where ingested_at >= now() - interval 40 day group by generation, shard";
    let rows = answered(sequential(clickhouse, sql).fetch_all::<Last>()).await?;
    let position = |(stream_seq, idx)| StreamPosition { stream_seq, idx };
    Ok(rows
        .into_iter()
        .map(|row| {
            let (generation, shard) = (row.generation, row.shard);
            (Shard { generation, shard }, position(row.last))
        })
        .collect())
}

/// Returns the next duplicates of a shard after a position, in order, each position once.
pub(super) async fn behind(
    clickhouse: &Client,
    shard: Shard,
    after: StreamPosition,
    limit: u64,
) -> Result<Vec<Duplicate>> {
    page(clickhouse, "", shard, after, limit).await
}

/// Does the same for the duplicates of the last two days, which is longer than a worker or an audit needs to find one.
pub(super) async fn lately(
    clickhouse: &Client,
    shard: Shard,
    after: StreamPosition,
    limit: u64,
) -> Result<Vec<Duplicate>> {
    page(
        clickhouse,
        "and ingested_at >= now() - interval 2 day",
        shard,
        after,
        limit,
    )
    .await
}

async fn page(
    clickhouse: &Client,
    when: &str,
    shard: Shard,
    after: StreamPosition,
    limit: u64,
) -> Result<Vec<Duplicate>> {
    let sql = format!(
        "select stream_seq, idx, event_id, account_id, lease_id, toString(usage_type) as usage_type,
                toInt64(toUnixTimestamp(period_start)) as period_start, cost_units
         from usage_duplicates
         where generation = ? and shard = ? and stream_seq >= ? and (stream_seq > ? or idx > ?) {when}
         order by stream_seq, idx limit 1 by stream_seq, idx limit ?"
    );
    let query = sequential(clickhouse, &sql)
        .bind(shard.generation)
        .bind(shard.shard)
        .bind(after.stream_seq)
        .bind(after.stream_seq)
        .bind(after.idx)
        .bind(limit);
    answered(query.fetch_all::<Duplicate>()).await
}

/// A lagging replica could show a later range before an earlier one, and the cursor would skip the earlier one.
fn sequential(clickhouse: &Client, sql: &str) -> clickhouse::query::Query {
    clickhouse.query(sql).with_setting("select_sequential_consistency", "1")
}

async fn answered<T>(query: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T> {
    match timeout(PATIENCE, query).await {
        Ok(answer) => answer.context("reading duplicates"),
        Err(_) => bail!("reading duplicates: no answer within {PATIENCE:?}"),
    }
}

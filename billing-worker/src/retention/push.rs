//! Writes to ClickHouse from which day on each account's rows are kept.

use std::collections::HashMap;

use anyhow::{Context, Result};
use clickhouse::{Client, Row};
use schema::{AccountId, Catalogue};
use serde::Serialize;
use sqlx::PgPool;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::rule::keep_from;
use crate::subscriptions::current;

/// Accounts that are read from PostgreSQL and pushed to ClickHouse at a time.
const PAGE: i64 = 10_000;

/// One row of `account_retention`.
#[derive(Row, Serialize)]
struct AccountRetention {
    #[serde(with = "clickhouse::serde::uuid")]
    push_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    account_id: Uuid,
    #[serde(with = "clickhouse::serde::time::date")]
    keep_from: Date,
    #[serde(with = "clickhouse::serde::time::datetime")]
    pushed_at: OffsetDateTime,
}

/// An account that is not pushed keeps all rows: its plan says so, or this failed before reaching it.
pub(super) async fn push_accounts(
    db: &PgPool,
    clickhouse: &Client,
    catalogue: &Catalogue,
    push: Uuid,
    now: OffsetDateTime,
) -> Result<u64> {
    let (mut pushed, mut after) = (0, Uuid::nil());
    loop {
        let ids = sqlx::query_scalar!(
            "select id from accounts where id > $1 order by id limit $2",
            after,
            PAGE
        )
        .fetch_all(db)
        .await
        .context("reading accounts")?;
        let Some(last) = ids.last() else { return Ok(pushed) };
        after = *last;
        let accounts: Vec<_> = ids.into_iter().map(AccountId).collect();
        let current = current::subscriptions(db, &accounts)
            .await
            .context("reading subscriptions")?;
        let open = first_open(db, &accounts).await.context("reading billing periods")?;
        let rows: Vec<_> = accounts
            .iter()
            .filter_map(|account| {
                Some(AccountRetention {
                    push_id: push,
                    account_id: account.0,
                    keep_from: keep_from(catalogue, current.get(account), open.get(&account.0).copied(), now)?,
                    pushed_at: now,
                })
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let mut insert = clickhouse
            .insert::<AccountRetention>("account_retention")
            .await
            .context("pushing the accounts' retention")?
            .with_setting("async_insert", "0");
        for row in &rows {
            insert.write(row).await.context("pushing the accounts' retention")?;
        }
        insert.end().await.context("pushing the accounts' retention")?;
        pushed += rows.len() as u64;
    }
}

/// Returns the start of the oldest billing period that is not frozen, for each account that has one.
async fn first_open(db: &PgPool, accounts: &[AccountId]) -> sqlx::Result<HashMap<Uuid, OffsetDateTime>> {
    let rows = sqlx::query!(
        r#"select account_id, min(period_start) as "start!" from billing_periods
           where frozen_at is null and account_id = any($1) group by account_id"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.account_id, row.start)).collect())
}

//! Resolves rows whose run is over. See [`super`] for why the result is final.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use async_nats::Client;
use clickhouse::Client as ClickHouse;
use quota_store::writers;
use schema::{AccountId, EventId, RunId, names};
use sqlx::PgPool;
use tracing::{info, warn};

use super::{originals, repository};
use crate::stored::lanes::Lanes as Ended;

/// Rows per step.
const ROWS_MAX: i64 = 1_000;

/// The result of one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Correcting events that are stored.
    pub stored: usize,
    /// Correcting events that will never be stored; their rows wait again.
    pub not_stored: usize,
    /// Rows that cannot be resolved yet: the ingestor has not reached the fence, or a system is unavailable.
    pub open: usize,
    /// Rows that are too old to be resolved: an operator must look.
    pub too_old: usize,
    /// Accounts to which units were returned.
    pub accounts: Vec<AccountId>,
}

/// A lane of a run that is over, and the rows that it was given, by account.
type Lanes = BTreeMap<(RunId, u16), BTreeMap<AccountId, Vec<EventId>>>;

/// Resolves rows of runs that are over: ended by others, given up, closed, or silent for a minute by the database's
/// clock. If such a run is still alive, it loses its lane and begins another.
pub async fn step(db: &PgPool, clickhouse: &ClickHouse, client: &Client) -> Result<Resolved> {
    let (lanes, too_old) = left_open(db).await?;
    let mut resolved = Resolved {
        too_old,
        ..Resolved::default()
    };
    if lanes.is_empty() {
        return Ok(resolved);
    }
    let ended = Ended::open(client).await?;
    for ((run, shard), accounts) in lanes {
        let rows = accounts.values().map(Vec::len).sum::<usize>();
        // A lane that cannot be resolved does not block the others.
        match ended.is_final(run, shard).await {
            Ok(true) => {}
            Ok(false) => {
                resolved.open += rows;
                continue;
            }
            Err(failure) => {
                warn!(run.id = %run, shard, "cannot check yet which events a lane contains: {failure:#}");
                resolved.open += rows;
                continue;
            }
        }
        for (account, events) in accounts {
            let there = originals::stored(clickhouse, account, &events).await?;
            let absent: Vec<_> = events.into_iter().filter(|event| !there.contains(event)).collect();
            resolved.accounts.extend(repository::stored(db, &there).await?);
            repository::not_stored(db, run, &absent).await?;
            resolved.stored += there.len();
            resolved.not_stored += absent.len();
        }
        info!(run.id = %run, shard, rows, "resolved corrections that a run had left open");
    }
    Ok(resolved)
}

/// Returns the rows whose run is over, and how many of them are too old.
async fn left_open(db: &PgPool) -> Result<(Lanes, usize)> {
    writers::fence_silent_with_corrections(db)
        .await
        .context("looking for silent runs")?;
    let rows = writers::open_corrections(db, ROWS_MAX)
        .await
        .context("reading corrections that were left open")?;
    let (mut lanes, mut too_old) = (Lanes::new(), 0);
    for row in rows {
        // ClickHouse keeps rows for at least 28 days. They count from the day of the event, which may be five days before
        // the row was stored. So after 23 days a missing row proves nothing.
        if row.is_old {
            too_old += 1;
            continue;
        }
        let account = AccountId(row.account_id);
        let shard = names::shard_of(account, u16::try_from(row.shards).unwrap_or(1));
        let lane = lanes.entry((RunId(row.run_id), shard)).or_default();
        lane.entry(account).or_default().push(EventId(row.id));
    }
    Ok((lanes, too_old))
}

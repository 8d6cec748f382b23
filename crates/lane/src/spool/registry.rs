//! That a run spools, as PostgreSQL has it. Who gives runs up looks there: one that spools has acknowledged what is not in
//! the stream, and is not ended by its silence.
//!
//! A statement that was sent and not answered may be executed at any time later. So each time a run begins to spool has a
//! number, which only grows: what is late changes nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use schema::RunId;
use sqlx::PgPool;
use tokio::time::timeout;

/// For one statement: requests wait for the first.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// What PostgreSQL knows of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub state: String,
    pub generation: u32,
    pub shards: u16,
    pub spooled: i64,
}

/// `live` or `spooling` → `spooling`, for the `nth` time. False: others are ending the run.
pub async fn enter(pool: &PgPool, run: RunId, nth: i64) -> Result<bool> {
    let entered = sqlx::query!(
        "update gateway_runs set state = 'spooling', spooled = $2
         where id = $1 and (state = 'live' and spooled < $2 or state = 'spooling' and spooled <= $2)",
        run.0,
        nth,
    )
    .execute(pool);
    let entered = timeout(STATEMENT_TIMEOUT, entered).await.context("no answer")??;
    Ok(entered.rows_affected() > 0)
}

/// `spooling`, for the `nth` time, → `live`. False: others are ending the run.
pub async fn leave(pool: &PgPool, run: RunId, nth: i64) -> Result<bool> {
    let left = sqlx::query!(
        "update gateway_runs set state = 'live' where id = $1 and spooled = $2 and state in ('live', 'spooling')",
        run.0,
        nth,
    )
    .execute(pool);
    let left = timeout(STATEMENT_TIMEOUT, left).await.context("no answer")??;
    Ok(left.rows_affected() > 0)
}

/// The run of a process that died is over: all its lanes have ended, and what its leases have left is settled by others.
pub async fn hand_over(pool: &PgPool, run: RunId) -> Result<()> {
    let handed = sqlx::query!(
        "update gateway_runs set state = 'fencing' where id = $1 and state in ('live', 'spooling')",
        run.0,
    )
    .execute(pool);
    timeout(STATEMENT_TIMEOUT, handed).await.context("no answer")??;
    Ok(())
}

pub async fn find(pool: &PgPool, run: RunId) -> Result<Option<Row>> {
    let row = sqlx::query!(
        "select state, generation, shards, spooled from gateway_runs where id = $1",
        run.0
    )
    .fetch_optional(pool);
    let row = timeout(STATEMENT_TIMEOUT, row).await.context("no answer")??;
    let row = row.map(|row| {
        anyhow::Ok(Row {
            state: row.state,
            generation: row.generation.try_into().context("its generation")?,
            shards: row.shards.try_into().context("its shards")?,
            spooled: row.spooled,
        })
    });
    row.transpose()
}

//! The spool state of a run in PostgreSQL, each statement with a time limit. See [`quota_store::spooling`].

use std::{future::Future, time::Duration};

use anyhow::{Context, Result};
use protocol::run::RunState;
use quota_store::{spooling, writers};
use schema::RunId;
use sqlx::PgPool;
use tokio::time::timeout;

/// For one statement. Requests wait for the first one.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The row of a run in PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub state: RunState,
    pub generation: u32,
    pub shards: u16,
    pub spooled: i64,
}

/// Records that the run spools, for the `nth` time. False: other processes are ending the run.
pub async fn enter(pool: &PgPool, run: RunId, nth: i64) -> Result<bool> {
    within(spooling::start(pool, run, nth)).await
}

/// Records that the run no longer spools, for the `nth` time. False: other processes are ending the run.
pub async fn leave(pool: &PgPool, run: RunId, nth: i64) -> Result<bool> {
    within(spooling::stop(pool, run, nth)).await
}

/// Hands the run over after its process died and all its lanes have ended. Other processes settle its leases.
pub async fn hand_over(pool: &PgPool, run: RunId) -> Result<()> {
    within(spooling::hand_over(pool, run)).await
}

pub async fn find(pool: &PgPool, run: RunId) -> Result<Option<Row>> {
    let row = within(writers::find(pool, run)).await?.map(|row| {
        anyhow::Ok(Row {
            state: row.state,
            generation: row.generation.try_into().context("its generation")?,
            shards: row.shards.try_into().context("its shards")?,
            spooled: row.spooled,
        })
    });
    row.transpose()
}

async fn within<T>(statement: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    Ok(timeout(STATEMENT_TIMEOUT, statement).await.context("no answer")??)
}

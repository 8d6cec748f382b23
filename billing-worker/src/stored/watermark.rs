//! The watermark of an account: everything that any gateway acknowledged before the question is in ClickHouse.
//!
//! 1. PostgreSQL has the runs that are not settled. A run that spools may have acknowledged events from its disk: wait until it
//!    no longer spools. PostgreSQL is read before NATS, so a run that drains in between has published before step 2.
//! 2. The lanes of dead runs are fenced: nothing follows what is read next. Then the last record of the account's shard is read.
//!    Everything that was acknowledged from the stream is at its sequence or before.
//! 3. Wait until the shard's manifest has passed this sequence.
//!
//! Requests that were admitted but not acknowledged before the question are not covered: their usage may be late.

use std::time::Duration;

use anyhow::{Context, Result};
use protocol::run::RunState;
use quota_store::writers::{self, Unsettled};
use schema::{AccountId, names};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::{lanes::Lanes, metrics::WatermarkMetrics};
use crate::{administration::Administration, error::Error};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(50);

/// Waits until everything that any gateway acknowledged before the call is in ClickHouse, for at most `patience`. It changes
/// nothing that a caller sees.
pub async fn wait(
    admin: &Administration,
    metrics: &WatermarkMetrics,
    account: AccountId,
    patience: Duration,
) -> Result<(), Error> {
    let (began, mut waits_for) = (Instant::now(), "PostgreSQL");
    let covered = timeout(patience, cover(admin, account, &mut waits_for)).await;
    metrics.wait_seconds.observe(began.elapsed().as_secs_f64());
    let why = match covered {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(failure)) => format!("{failure:#}"),
        Err(_) => format!("still waiting for {waits_for} after {patience:?}"),
    };
    metrics.not_stored.inc();
    warn!(account.id = %account, "acknowledged usage may not be in ClickHouse yet: {why}");
    Err(Error::UsageNotStored(why))
}

async fn cover(admin: &Administration, account: AccountId, waits_for: &mut &'static str) -> Result<()> {
    let mut runs = unsettled(admin).await?;
    // A settled run has nothing that is not stored.
    if runs.is_empty() {
        return Ok(());
    }
    *waits_for = "NATS";
    let client = admin.announcer.connection().await.context("connecting to NATS")?;
    let lanes = Lanes::open(client).await?;
    // The spool of an earlier generation can never be published.
    let spools = |run: &Unsettled| run.state.acknowledges_from_spool() && run.generation == lanes.generation();
    while runs.iter().any(spools) {
        *waits_for = "the spool of a gateway";
        sleep(EVERY).await;
        runs = unsettled(admin).await?;
    }
    *waits_for = "NATS";
    let shard = names::shard_of(account, lanes.shards());
    for run in runs.iter().filter(|run| run.state == RunState::Fencing) {
        lanes.fence(run.id, shard).await?;
    }
    let end = lanes.last_of(shard).await?;
    *waits_for = "the ingestors";
    while !lanes.is_stored(shard, end).await? {
        sleep(EVERY).await;
    }
    Ok(())
}

async fn unsettled(admin: &Administration) -> Result<Vec<Unsettled>> {
    writers::unsettled(&admin.db).await.context("reading the runs")
}

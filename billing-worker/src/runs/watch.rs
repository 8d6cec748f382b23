//! Checks the heartbeats of live runs and ends the silent ones.

use std::time::Duration;

use anyhow::{Context, Result};
use quota_store::writers;
use schema::RunId;
use service::Lifecycle;
use sqlx::PgPool;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{error, warn};

use super::{
    SettleMetrics, SettleSettings,
    silence::{Look, Silence},
};

/// For one statement. A late answer is useless.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs until the service stops. Several workers may watch: each decides from its own checks, and one update ends a run.
pub async fn watch(db: PgPool, settings: SettleSettings, metrics: SettleMetrics, life: Lifecycle) {
    let mut silence = Silence::new(settings.run_dead_after, settings.gap_max());
    let mut ticks = interval(settings.look_every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = life.token();
    let mut failing = false;
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        match look(&db, &mut silence).await {
            Ok(ended) => {
                failing = false;
                for run in ended {
                    metrics.runs_ended.inc();
                    // A gateway died, or hung for a minute: an operator should know.
                    error!(run.id = %run, "a run is silent: ending it and settling its leases");
                }
            }
            Err(failure) => {
                if !failing {
                    warn!("cannot check the heartbeats of runs, retrying: {failure:#}");
                }
                failing = true;
            }
        }
    }
}

/// Returns the runs that this check ended.
async fn look(db: &PgPool, silence: &mut Silence) -> Result<Vec<RunId>> {
    let began = Instant::now();
    let heartbeats = timeout(PATIENCE, writers::heartbeats(db))
        .await
        .context("reading heartbeats")?
        .context("reading heartbeats")?;
    let look = Look {
        began,
        ended: Instant::now(),
    };
    let mut ended = Vec::new();
    for (run, heartbeat) in silence.observe(look, &heartbeats) {
        if end(db, run, heartbeat).await? {
            ended.push(run);
        }
    }
    Ok(ended)
}

/// Ends the run, unless its heartbeat moved, it spools, or it is already ended.
async fn end(db: &PgPool, run: RunId, heartbeat: i64) -> Result<bool> {
    // This waits for a running grant or return of the run, which takes seconds at most.
    let update = writers::fence_silent(db, run, heartbeat);
    let updated = timeout(PATIENCE, update)
        .await
        .with_context(|| format!("ending the run {run}"))?
        .with_context(|| format!("ending the run {run}"))?;
    Ok(updated)
}

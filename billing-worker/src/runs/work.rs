//! Settles every run that is over. See [`super`] for the order of the steps.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result};
use async_nats::{Client, connection::State as Connection};
use clickhouse::Client as ClickHouse;
use futures_util::{StreamExt, stream};
use protocol::run::RunState;
use quota_store::writers;
use schema::{AccountId, LeaseId, RunId, announcement::Announcement};
use service::{Backoff, Lifecycle};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::{
    SettleMetrics, SettleSettings, count,
    leases::{self, Lease, LeaseResult},
};
use crate::{
    administration::{Administration, announce::Announcer},
    stored::lanes::{Ending, Lanes},
};

/// Runs per step, and at the same time.
const RUNS_MAX: i64 = 64;
const RUNS_AT_ONCE: usize = 4;
/// For one statement.
const PATIENCE: Duration = Duration::from_secs(10);
/// When overspent leases are counted again: the ingestor removes duplicate rows within the hour.
const OVERSPENT_AGAIN: Duration = Duration::from_secs(60);
/// Maximum number of log lines about leases of one run.
const LOGGED_MAX: usize = 10;

/// Several workers may run this at the same time: each one skips what another has done.
pub struct Settler {
    db: PgPool,
    clickhouse: ClickHouse,
    announcer: Announcer,
    metrics: SettleMetrics,
    settings: SettleSettings,
}

/// A run that is over.
#[derive(Clone, Copy, Debug)]
struct Over {
    run: RunId,
    shards: u16,
    started_at: OffsetDateTime,
    ending: Ending,
}

/// The result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SettleResult {
    Settled,
    /// Some of its records are not in ClickHouse yet.
    NotStored,
    /// This many leases are overspent.
    Overspent(usize),
}

/// An unsettled run, and when it is tried again.
struct Waiting {
    again_at: Instant,
    backoff: Backoff,
    overspent: usize,
}

impl Settler {
    pub fn new(admin: &Administration, settings: SettleSettings, metrics: SettleMetrics) -> Self {
        Self {
            db: admin.db.clone(),
            clickhouse: admin.clickhouse.clone(),
            announcer: admin.announcer.clone(),
            metrics,
            settings,
        }
    }

    /// Runs until the service stops. Every step may be interrupted. If NATS, ClickHouse or PostgreSQL is unavailable, it retries.
    pub async fn run(self, life: Lifecycle) {
        let mut waiting = HashMap::new();
        let stopping = life.token();
        let mut failing = false;
        while stopping
            .run_until_cancelled(sleep(self.settings.look_every()))
            .await
            .is_some()
        {
            match stopping.run_until_cancelled(self.step(&mut waiting)).await {
                None => return,
                Some(Ok(())) => failing = false,
                Some(Err(failure)) => {
                    if !failing {
                        warn!("cannot settle runs, retrying: {failure:#}");
                    }
                    failing = true;
                }
            }
        }
    }

    async fn step(&self, waiting: &mut HashMap<RunId, Waiting>) -> Result<()> {
        self.show().await?;
        let overs = self.overs(waiting).await?;
        let Some(client) = self.announcer.client().filter(|client| is_connected(client)) else {
            return Ok(());
        };
        if overs.is_empty() {
            return Ok(());
        }
        let lanes = &Lanes::open(client).await?;
        let tries: Vec<_> = overs.into_iter().map(|over| self.attempt(lanes, over)).collect();
        let mut tries = stream::iter(tries).buffer_unordered(RUNS_AT_ONCE);
        while let Some((over, result)) = tries.next().await {
            self.note(waiting, over, result);
        }
        let overspent: usize = waiting.values().map(|waiting| waiting.overspent).sum();
        self.metrics
            .leases_overspent
            .set(i64::try_from(overspent).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Returns when the run is tried again, if at all.
    fn note(&self, waiting: &mut HashMap<RunId, Waiting>, over: Over, result: Result<SettleResult>) {
        let run = over.run;
        let entry = waiting.entry(run).or_insert_with(|| Waiting {
            again_at: Instant::now(),
            backoff: Backoff::new(self.settings.look_every(), Duration::from_secs(30)),
            overspent: 0,
        });
        let pause = match result {
            Ok(SettleResult::Settled) => {
                waiting.remove(&run);
                return;
            }
            Ok(SettleResult::NotStored) => {
                // Let other runs proceed, no matter how many wait.
                debug!(run.id = %run, "a run waits for the ingestors to store what it published");
                entry.backoff.next_delay()
            }
            Ok(SettleResult::Overspent(leases)) => {
                entry.overspent = leases;
                OVERSPENT_AGAIN
            }
            Err(failure) => {
                self.metrics.failed.inc();
                let delay = entry.backoff.next_delay();
                warn!(run.id = %run, "could not settle a run, retrying in {delay:.1?}: {failure:#}");
                delay
            }
        };
        entry.again_at = Instant::now() + pause;
    }

    /// Returns runs that are over and due. Dead runs come first. Runs that closed normally follow after a delay.
    async fn overs(&self, waiting: &mut HashMap<RunId, Waiting>) -> Result<Vec<Over>> {
        let now = Instant::now();
        let not_due: Vec<_> = waiting
            .iter()
            .filter(|(_, waiting)| waiting.again_at > now)
            .map(|(run, _)| *run)
            .collect();
        let rows = writers::ended(&self.db, self.settings.run_dead_after, &not_due, RUNS_MAX);
        let rows = timeout(PATIENCE, rows)
            .await
            .context("looking for runs that are over")?
            .context("looking for runs that are over")?;
        let overs: Vec<_> = rows
            .into_iter()
            .map(|row| Over {
                run: row.id,
                shards: u16::try_from(row.shards).unwrap_or(u16::MAX),
                started_at: row.started_at,
                ending: match row.state {
                    RunState::Closed => Ending::Closed,
                    _ => Ending::Fence,
                },
            })
            .collect();
        // Another worker settled the due runs that are missing here.
        waiting.retain(|run, waiting| waiting.again_at > now || overs.iter().any(|over| over.run == *run));
        Ok(overs)
    }

    async fn attempt(&self, lanes: &Lanes, over: Over) -> (Over, Result<SettleResult>) {
        (over, self.settle(lanes, over).await)
    }

    async fn settle(&self, lanes: &Lanes, over: Over) -> Result<SettleResult> {
        // Lanes first, then the count. In the other order, events stored in between would be missed and their units spent twice.
        if !lanes.are_final(over.run, over.shards, over.ending).await? {
            return Ok(SettleResult::NotStored);
        }
        if over.ending == Ending::Fence {
            let overspent = self.settle_leases(over).await?;
            if overspent > 0 {
                return Ok(SettleResult::Overspent(overspent));
            }
        }
        let settled = writers::settle(&self.db, over.run);
        let settled = timeout(PATIENCE, settled)
            .await
            .context("settling the run")?
            .context("settling the run")?;
        if settled {
            self.metrics.runs_settled.inc();
            if over.ending == Ending::Fence {
                info!(run.id = %over.run, "settled a run");
            }
        }
        Ok(SettleResult::Settled)
    }

    /// Settles the run's live leases page by page. Returns the number of overspent leases, which stay unchanged.
    async fn settle_leases(&self, over: Over) -> Result<usize> {
        let (mut overspent, mut last) = (0, None);
        loop {
            let page = leases::page(&self.db, over.run, last.as_ref()).await?;
            let Some(end) = page.last() else {
                return Ok(overspent);
            };
            last = Some(*end);
            let ids: Vec<_> = page.iter().map(|lease| (lease.account, lease.id)).collect();
            let counted = count::spent(&self.clickhouse, &ids, over.started_at).await?;
            let mut spent: Vec<(LeaseId, i64)> = Vec::with_capacity(page.len());
            for lease in &page {
                match lease.result(counted.get(&lease.id).copied().unwrap_or(0)) {
                    LeaseResult::Spent(units) => spent.push((lease.id, units)),
                    LeaseResult::Uncounted => {
                        self.metrics.leases_uncounted.inc();
                        error!(run.id = %over.run, lease.id = %lease.id, account.id = %lease.account, units = lease.had(),
                               "a lease is too old to be counted: settling it as fully spent");
                        spent.push((lease.id, lease.had()));
                    }
                    LeaseResult::Overspent(units) => {
                        log_overspent(over.run, lease, units, overspent);
                        overspent += 1;
                    }
                }
            }
            let settled = leases::settle(&self.db, over.run, &spent).await?;
            self.metrics.leases_settled.inc_by(settled.leases.unsigned_abs());
            self.metrics.units_returned.inc_by(settled.units.unsigned_abs());
            info!(run.id = %over.run, leases = settled.leases, units = settled.units, "settled leases");
            self.announce(&settled.accounts).await;
        }
    }

    async fn announce(&self, accounts: &[AccountId]) {
        let returned = |account: &AccountId| Announcement::UnitsReturned { account_id: *account };
        let announcements: Vec<_> = accounts.iter().map(returned).collect();
        self.announcer.announce_all(&announcements).await;
    }

    async fn show(&self) -> Result<()> {
        let rows = writers::counts(&self.db);
        let rows = timeout(PATIENCE, rows)
            .await
            .context("counting runs")?
            .context("counting runs")?;
        let counts: Vec<_> = rows.iter().map(|row| (row.state, row.writers)).collect();
        let oldest = rows.iter().map(|row| row.oldest_s).max().unwrap_or(0);
        self.metrics.show(&counts, oldest);
        Ok(())
    }
}

/// Logs an overspent lease. `before`: leases of the run that this attempt has logged already.
fn log_overspent(run: RunId, lease: &Lease, units: i64, before: usize) {
    if before < LOGGED_MAX {
        error!(run.id = %run, lease.id = %lease.id, account.id = %lease.account, had = lease.had(), too_many = units,
               "a lease has more counted units than it held, and is not settled: look at its events in usage_events \
                (the ingestor's audit removes duplicate rows)");
    }
}

fn is_connected(client: &Client) -> bool {
    client.connection_state() == Connection::Connected
}

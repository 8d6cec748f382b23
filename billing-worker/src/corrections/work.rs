//! Sees to it that every correction reaches the stream: resolves what was left open, publishes what waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use async_nats::{Client, connection::State};
use clickhouse::Client as ClickHouse;
use lane::{link::Link, publisher::Outcome};
use schema::{AccountId, EventId, announcement::Announcement};
use service::{Backoff, Lifecycle};
use sqlx::PgPool;
use tokio::{sync::Notify, time::sleep};
use tracing::{error, info, warn};

use super::{
    ledger, resolve,
    session::{Nats, Session, Told},
};
use crate::{
    administration::{Administration, announce::Announcer},
    metrics::Metrics,
};

/// How often the ledger is looked at without being asked: commands and other workers write to it, too.
const EVERY: Duration = Duration::from_secs(2);
/// Looks in a row that find nothing, after which the run is closed: corrections often come one after the other.
const IDLE_LOOKS: u32 = 3;

/// Cheap to clone.
#[derive(Clone)]
pub struct Work {
    db: PgPool,
    clickhouse: ClickHouse,
    announcer: Announcer,
    metrics: Metrics,
    /// Told of a new correction.
    wait: Arc<Notify>,
    too_old_told: Arc<AtomicUsize>,
}

impl Work {
    pub fn new(admin: &Administration, metrics: &Metrics) -> Self {
        Self {
            db: admin.db.clone(),
            clickhouse: admin.clickhouse.clone(),
            announcer: admin.announcer.clone(),
            metrics: metrics.clone(),
            wait: admin.corrections_wait.clone(),
            too_old_told: Arc::default(),
        }
    }

    /// Until the service stops; then its run, should there be one, is closed. NATS and ClickHouse being away postpone it.
    pub async fn run(self, life: Lifecycle) {
        let mut backoff = Backoff::new(EVERY, Duration::from_secs(30));
        let mut pause = EVERY;
        let mut nats = None;
        loop {
            tokio::select! {
                () = life.stopping() => return,
                () = sleep(pause) => {}
                () = self.wait.notified() => {}
            }
            pause = match self.look(&mut nats, &life).await {
                Ok(()) => {
                    backoff.reset();
                    EVERY
                }
                Err(failure) => {
                    let delay = backoff.next_delay();
                    warn!("corrections wait, trying again in {delay:.1?}: {failure:#}");
                    delay
                }
            };
        }
    }

    async fn look(&self, nats: &mut Option<Nats>, life: &Lifecycle) -> Result<()> {
        let waiting = ledger::waiting(&self.db).await?;
        self.metrics.corrections_waiting.set(waiting);
        let client = self.announcer.client().cloned().filter(is_connected);
        let (1.., Some(client)) = (waiting, client) else {
            return Ok(());
        };
        let nats = nats.get_or_insert_with(|| Nats {
            link: Link::watch(&client, life),
            client,
        });
        self.step(nats, life).await
    }

    /// Resolves what can be resolved now and publishes all that waits. Bounded by what waits.
    async fn step(&self, nats: &Nats, life: &Lifecycle) -> Result<()> {
        // Both may wait for others, and a shutdown waits for neither.
        let stopping = life.token();
        let resolving = resolve::step(&self.db, &self.clickhouse, &nats.client);
        match stopping.run_until_cancelled(resolving).await {
            Some(Ok(resolved)) => {
                self.announce(&resolved.accounts).await;
                self.tell_too_old(resolved.too_old);
            }
            // What was left open waits; what is new need not.
            Some(Err(failure)) => warn!("corrections that a run had left open stay open: {failure:#}"),
            None => return Ok(()),
        }
        if !ledger::has_unhanded(&self.db).await? {
            return Ok(());
        }
        let begin = Session::begin(&self.db, nats, &self.metrics.lanes);
        let Some(session) = stopping.run_until_cancelled(begin).await else {
            return Ok(());
        };
        let session = session?;
        match self.publish(&session, life).await {
            Ok(()) => session.end().await,
            Err(failure) => {
                session.abandon().await;
                Err(failure)
            }
        }
    }

    async fn publish(&self, session: &Session, life: &Lifecycle) -> Result<()> {
        let mut idle_looks = 0;
        while !life.is_stopping() && idle_looks < IDLE_LOOKS {
            let handed = ledger::hand(&self.db, session.run()).await?;
            if handed.is_empty() {
                idle_looks += 1;
                tokio::select! {
                    () = life.stopping() => {}
                    () = sleep(EVERY) => {}
                    () = self.wait.notified() => {}
                }
                continue;
            }
            idle_looks = 0;
            let told = session.publish(handed).await;
            let of = |wanted: fn(Outcome) -> bool| -> Vec<EventId> {
                let told = told.iter().filter(|told: &&Told| wanted(told.outcome));
                told.flat_map(|told| told.events.iter().copied()).collect()
            };
            let stored = of(|outcome| outcome == Outcome::Stored);
            let not_stored = of(Outcome::is_not_stored);
            let accounts = ledger::stored(&self.db, &stored).await?;
            info!(events = stored.len(), "published corrections");
            self.announce(&accounts).await;
            ledger::not_stored(&self.db, session.run(), &not_stored).await?;
            let unknown = of(|outcome| outcome == Outcome::Unknown).len();
            if unknown > 0 {
                bail!("nobody knows yet whether {unknown} correcting events are stored");
            }
            if !not_stored.is_empty() {
                bail!("{} correcting events could not be stored now", not_stored.len());
            }
        }
        Ok(())
    }

    /// Once, and again when there are more or less of them.
    fn tell_too_old(&self, now: usize) {
        if self.too_old_told.swap(now, Relaxed) != now && now > 0 {
            error!(
                corrections = now,
                "corrections were left open too long ago to tell whether they are stored: look for their ids in usage_events, \
                 then set published_at or clear run_id"
            );
        }
    }

    async fn announce(&self, accounts: &[AccountId]) {
        let returned = |account: &AccountId| Announcement::UnitsReturned { account_id: *account };
        let announcements: Vec<_> = accounts.iter().map(returned).collect();
        self.announcer.announce_all(&announcements).await;
    }
}

fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

//! Publishes every correction: resolves the ones left open, then publishes the waiting ones.

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
use lane::{link::Link, publisher::PublishOutcome};
use schema::{AccountId, EventId, announcement::Announcement};
use service::{Backoff, Lifecycle};
use sqlx::PgPool;
use tokio::{sync::Notify, time::sleep};
use tracing::{error, info, warn};

use super::{
    repository, resolve,
    session::{Nats, PublishedEvents, Session},
};
use crate::{
    administration::{Administration, announce::Announcer},
    metrics::Metrics,
};

/// How often the table is checked without a notification: commands and other workers write to it as well.
const EVERY: Duration = Duration::from_secs(2);
/// The run is closed after this many checks without work: corrections often come one after another.
const IDLE_LOOKS: u32 = 3;

/// Cheap to clone.
#[derive(Clone)]
pub struct Work {
    db: PgPool,
    clickhouse: ClickHouse,
    announcer: Announcer,
    metrics: Metrics,
    /// Notified of new corrections.
    wait: Arc<Notify>,
    too_old_logged: Arc<AtomicUsize>,
}

impl Work {
    pub fn new(admin: &Administration, metrics: &Metrics) -> Self {
        Self {
            db: admin.db.clone(),
            clickhouse: admin.clickhouse.clone(),
            announcer: admin.announcer.clone(),
            metrics: metrics.clone(),
            wait: admin.corrections_wait.clone(),
            too_old_logged: Arc::default(),
        }
    }

    /// Runs until the service stops, then closes its run if it has one. If NATS or ClickHouse is unavailable, it retries.
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
                    warn!("corrections wait, retrying in {delay:.1?}: {failure:#}");
                    delay
                }
            };
        }
    }

    async fn look(&self, nats: &mut Option<Nats>, life: &Lifecycle) -> Result<()> {
        let waiting = repository::waiting(&self.db).await?;
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

    /// Resolves what can be resolved now, and publishes all waiting corrections.
    async fn step(&self, nats: &Nats, life: &Lifecycle) -> Result<()> {
        // Both may wait for other systems. A shutdown waits for neither.
        let stopping = life.token();
        let resolving = resolve::step(&self.db, &self.clickhouse, &nats.client);
        match stopping.run_until_cancelled(resolving).await {
            Some(Ok(resolved)) => {
                self.announce(&resolved.accounts).await;
                self.log_too_old(resolved.too_old);
            }
            // Corrections left open must wait; new ones need not.
            Some(Err(failure)) => warn!("corrections that a run had left open stay open: {failure:#}"),
            None => return Ok(()),
        }
        if !repository::has_unhanded(&self.db).await? {
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
            let handed = repository::hand(&self.db, session.run()).await?;
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
            let published = session.publish(handed).await;
            let of = |wanted: fn(PublishOutcome) -> bool| -> Vec<EventId> {
                let records = published
                    .iter()
                    .filter(|record: &&PublishedEvents| wanted(record.outcome));
                records.flat_map(|record| record.events.iter().copied()).collect()
            };
            let stored = of(|outcome| outcome == PublishOutcome::Stored);
            let not_stored = of(PublishOutcome::is_not_stored);
            let accounts = repository::stored(&self.db, &stored).await?;
            info!(events = stored.len(), "published corrections");
            self.announce(&accounts).await;
            repository::not_stored(&self.db, session.run(), &not_stored).await?;
            let unknown = of(|outcome| outcome == PublishOutcome::Unknown).len();
            if unknown > 0 {
                bail!("it is unknown whether {unknown} correcting events are stored");
            }
            if !not_stored.is_empty() {
                bail!("{} correcting events could not be stored now", not_stored.len());
            }
        }
        Ok(())
    }

    /// Logs the number of rows that are too old, each time that it changes.
    fn log_too_old(&self, now: usize) {
        if self.too_old_logged.swap(now, Relaxed) != now && now > 0 {
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

//! Usage notices: at thresholds of a limit an account is told, once, by a signed POST to its URL and by a message on NATS.
//!
//! | what | file |
//! |---|---|
//! | settings | [`settings`] |
//! | which thresholds are reached | [`threshold`] |
//! | what running periods have used | [`usage`] |
//! | comparing the two | [`watch`] |
//! | what a notice says | [`message`] |
//! | its row: written once, claimed, settled, published | [`outbox`] |
//! | the account's URL and secrets | [`endpoint`] |
//! | sending what is due | [`courier`] |
//! | one attempt | [`delivery`] |
//! | when to try again, when to give up | [`schedule`] |
//! | secrets and signatures | [`signature`] |
//! | connecting to the address that was checked | [`connector`] |
//! | which addresses are refused | [`address`] |
//! | listing, testing, replaying | [`notice`] |
//! | counters for the operator | [`metrics`] |
//!
//! # Invariants
//! - One row for (account, usage type, period, threshold), for ever: the table's key says so, whoever raises a limit.
//! - A notice claims stored usage only, never units that gateways hold.
//! - An attempt goes to an address that was checked, on the connection that was made to it.
//! - A secret is in one answer, the one to its making, and in `notice_secrets`; neither it nor a URL is in a log.

pub mod address;
pub mod connector;
pub mod courier;
pub mod delivery;
pub mod endpoint;
pub mod message;
pub mod metrics;
pub mod operator;
pub mod outbox;
pub mod schedule;
pub mod settings;
pub mod signature;
pub mod threshold;
pub mod usage;
pub mod watch;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::connection::State;
use clickhouse::Client;
use schema::clock;
use service::Lifecycle;
use sqlx::PgPool;
use tokio::{
    sync::{Notify, Semaphore},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::administration::{Administration, announce::Announcer};
use courier::Courier;
use delivery::Delivery;
use metrics::NoticeMetrics;
use settings::NoticeSettings;
use watch::Watch;

/// Spawns what compares, sends and publishes, until the service stops.
pub fn start(
    settings: &NoticeSettings,
    admin: &Administration,
    clickhouse: Client,
    metrics: &NoticeMetrics,
    life: &Lifecycle,
) {
    let wake = Arc::new(Notify::new());
    let watch = Watch {
        db: admin.db.clone(),
        clickhouse,
        catalogue: admin.catalogue.clone(),
        thresholds: settings.notice_thresholds.clone(),
    };
    let courier = Courier {
        db: admin.db.clone(),
        delivery: Arc::new(Delivery::new(settings.policy)),
        metrics: metrics.clone(),
        permits: Arc::new(Semaphore::new(usize::from(settings.notice_concurrency))),
        wake: wake.clone(),
    };
    life.spawn(compare(
        watch,
        settings.notice_interval,
        wake,
        metrics.clone(),
        life.clone(),
    ));
    life.spawn(courier.run(life.clone()));
    life.spawn(publish(
        admin.db.clone(),
        admin.announcer.clone(),
        metrics.clone(),
        life.clone(),
    ));
}

async fn compare(watch: Watch, every: Duration, wake: Arc<Notify>, metrics: NoticeMetrics, life: Lifecycle) {
    let mut is_waiting = false;
    loop {
        let step = async {
            sleep(every).await;
            let new = watch.step(clock::now_s()).await?;
            let pending = outbox::pending(&watch.db).await.context("counting notices")?;
            anyhow::Ok((new, pending))
        };
        let done = tokio::select! {
            done = step => done,
            () = life.stopping() => return,
        };
        match done {
            Ok((new, pending)) => {
                metrics.comparisons.inc();
                metrics.reached.inc_by(new.len() as u64);
                metrics.pending.set(pending);
                if !new.is_empty() {
                    wake.notify_one();
                }
                if is_waiting {
                    info!("usage is compared with limits again");
                    is_waiting = false;
                }
            }
            Err(failure) => {
                metrics.comparisons_skipped.inc();
                if !is_waiting {
                    warn!("usage is not compared with limits until this is over: {failure:#}");
                    is_waiting = true;
                }
            }
        }
    }
}

/// Publishes notices while NATS is there. While it is not they wait.
async fn publish(db: PgPool, announcer: Announcer, metrics: NoticeMetrics, life: Lifecycle) {
    const POLL: Duration = Duration::from_secs(1);
    /// NATS may be there and silent; the rows are locked meanwhile.
    const PATIENCE: Duration = Duration::from_secs(5);
    loop {
        tokio::select! {
            () = life.stopping() => return,
            () = sleep(POLL) => {}
        }
        let connected = |client: &&async_nats::Client| client.connection_state() == State::Connected;
        let Some(client) = announcer.client().filter(connected) else {
            continue;
        };
        match timeout(PATIENCE, outbox::publish(&db, client)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(published)) => {
                metrics.published.inc_by(published as u64);
            }
            Ok(Err(failure)) => debug!("could not publish notices: {failure:#}"),
            Err(_) => debug!("could not publish notices within {PATIENCE:?}"),
        }
    }
}

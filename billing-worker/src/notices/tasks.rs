//! The background tasks of notices: compare, send, publish.

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

use super::{
    courier::Courier, delivery::Delivery, metrics::NoticeMetrics, outbox, settings::NoticeSettings, watch::Watch,
};
use crate::administration::{Administration, announce::Announcer};

/// Spawns the tasks that compare, send and publish. They run until the service stops.
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
                    info!("comparing usage with limits works again");
                    is_waiting = false;
                }
            }
            Err(failure) => {
                metrics.comparisons_skipped.inc();
                if !is_waiting {
                    warn!("cannot compare usage with limits, will retry: {failure:#}");
                    is_waiting = true;
                }
            }
        }
    }
}

/// Publishes notices while NATS is available. Otherwise they wait.
async fn publish(db: PgPool, announcer: Announcer, metrics: NoticeMetrics, life: Lifecycle) {
    const POLL: Duration = Duration::from_secs(1);
    /// NATS may be connected but silent, and the rows stay claimed meanwhile.
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

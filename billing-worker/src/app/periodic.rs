//! What is done again and again: each chore is a loop over one step. Steps may be cut off at any time and may run in several
//! workers at once.

use std::{future::Future, sync::Arc, time::Duration};

use clickhouse::Client;
use schema::{Catalogue, clock};
use service::Lifecycle;
use sqlx::PgPool;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{error, info, warn};

use crate::{
    accounts::pool_limits,
    administration::Administration,
    corrections::duplicates::{self, Returns},
    error::Error,
    metrics::Metrics,
    reports, retention, stripe,
    subscriptions::{billing::Billing, unbilled},
    webhook,
};

/// Deletes rows whose retention is over, once a day. ClickHouse being away postpones it.
pub async fn retain(db: PgPool, clickhouse: Client, catalogue: Arc<Catalogue>, life: Lifecycle) {
    /// A worker that is restarted every day does its day's work, too; one that cannot stay up does not begin it.
    const FIRST_AFTER: Duration = Duration::from_secs(5 * 60);
    const EVERY: Duration = Duration::from_secs(24 * 3_600);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(3_600);
    /// Between steps of one day: ClickHouse has others to serve.
    const BETWEEN: Duration = Duration::from_secs(5);

    let mut pause = FIRST_AFTER;
    let step = || retention::step::step(&db, &clickhouse, &catalogue, clock::now());
    while let Some(done) = after(pause, step, &life).await {
        pause = match done {
            Ok(retained) if retained.more => BETWEEN,
            Ok(_) => EVERY,
            Err(failure) => {
                error!("retention failed, trying again in {AFTER_A_FAILURE:?}: {failure:#}");
                AFTER_A_FAILURE
            }
        };
    }
}

/// Compares the pools of running periods with the limits in force. Whoever changes a limit changes the pools too; this finds
/// what they could not see: a pool that was opened with the limit of before while the catalogue was copied, or that became
/// the running one when a subscription ended.
pub async fn refresh_limits(admin: Administration, life: Lifecycle) {
    const EVERY: Duration = Duration::from_secs(10 * 60);
    let step = || pool_limits::refresh(&admin, clock::now_s());
    while let Some(done) = after(EVERY, step, &life).await {
        match done {
            Ok(0) => {}
            Ok(accounts) => info!(accounts, "brought limits of running periods in line"),
            Err(failure) => warn!("comparing limits failed, trying again in {EVERY:?}: {failure}"),
        }
    }
}

/// Gives the units of dropped duplicates back to their pools as they are stored, and once an hour looks for those that an
/// audit stored late. ClickHouse being away postpones it.
pub async fn return_duplicates(returns: Returns, metrics: Metrics, life: Lifecycle) {
    const EVERY: Duration = Duration::from_secs(5);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(30);
    const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

    let mut pause = EVERY;
    let mut swept_at = None;
    let is_due = |swept_at: Option<Instant>| swept_at.is_none_or(|at| at.elapsed() >= SWEEP_EVERY);
    let step = |sweeps: bool| {
        let returns = &returns;
        async move {
            match sweeps {
                true => duplicates::sweep(returns).await,
                false => duplicates::step(returns).await,
            }
        }
    };
    loop {
        let sweeps = is_due(swept_at);
        let Some(done) = after(pause, || step(sweeps), &life).await else {
            return;
        };
        pause = match done {
            Ok(returned) => {
                metrics.duplicates_returned(returned.duplicates, returned.units);
                if sweeps {
                    swept_at = Some(Instant::now());
                }
                match returned.more {
                    true => Duration::ZERO,
                    false => EVERY,
                }
            }
            Err(failure) => {
                warn!("units of duplicates were not given back, trying again in {AFTER_A_FAILURE:?}: {failure:#}");
                AFTER_A_FAILURE
            }
        };
    }
}

/// Works on Stripe's events as they come, and on those that are due again.
pub async fn work_on_events(billing: Billing, metrics: Metrics, inbox: Arc<Notify>, life: Lifecycle) {
    /// What another worker stored, or is due again, is found then.
    const EVERY: Duration = Duration::from_secs(1);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(5);
    loop {
        // To its end, also when the service stops: what was claimed is not left for minutes.
        let pause = match webhook::inbox::step(&billing, &metrics).await {
            Ok(0) => EVERY,
            Ok(_) => Duration::ZERO,
            Err(failure) => {
                warn!("reading the inbox failed, trying again in {AFTER_A_FAILURE:?}: {failure}");
                AFTER_A_FAILURE
            }
        };
        let stored = async {
            // Whatever is stored is due at once; a failure is waited out.
            match pause {
                AFTER_A_FAILURE => std::future::pending().await,
                _ => inbox.notified().await,
            }
        };
        tokio::select! {
            () = life.stopping() => return,
            () = stored => {}
            () = sleep(pause) => {}
        }
    }
}

/// Asks Stripe for events that it could not deliver, every hour and at the start.
pub async fn catch_up(billing: Billing, life: Lifecycle) {
    const FIRST_AFTER: Duration = Duration::from_secs(10);
    const EVERY: Duration = Duration::from_secs(3_600);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(300);
    let mut pause = FIRST_AFTER;
    while let Some(done) = after(pause, || webhook::catch_up::step(&billing), &life).await {
        pause = match done {
            Ok(found) => {
                if found > 0 {
                    warn!(
                        events = found,
                        "found events that Stripe could not deliver: is the endpoint right?"
                    );
                }
                EVERY
            }
            Err(failure) => {
                warn!("asking Stripe for undelivered events failed, trying again in {AFTER_A_FAILURE:?}: {failure}");
                AFTER_A_FAILURE
            }
        };
    }
}

/// Compares all subscriptions with Stripe, and deletes old events, once a day.
pub async fn compare(billing: Billing, life: Lifecycle) {
    const FIRST_AFTER: Duration = Duration::from_secs(15 * 60);
    const EVERY: Duration = Duration::from_secs(24 * 3_600);
    let mut pause = FIRST_AFTER;
    while let Some(done) = after(pause, || webhook::comparison::run(&billing), &life).await {
        match done {
            Ok(compared) => info!(
                accounts = compared.accounts,
                mended = compared.mended,
                failed = compared.failed,
                "compared subscriptions with Stripe"
            ),
            Err(failure) => warn!("comparing subscriptions with Stripe failed, trying again in {EVERY:?}: {failure}"),
        }
        match webhook::inbox::forget(&billing.admin.db).await {
            Ok(0) => {}
            Ok(events) => info!(events, "deleted old events of Stripe's"),
            Err(failure) => warn!("deleting old events failed, trying again in {EVERY:?}: {failure}"),
        }
        pause = EVERY;
    }
}

/// Says at the start whether Stripe takes our key and has our prices, and subscriptions have them; the rest of the service runs
/// whatever it finds.
pub async fn check_stripe(billing: Billing, life: Lifecycle) {
    const AFTER_A_FAILURE: Duration = Duration::from_secs(60);
    let mut pause = Duration::ZERO;
    let look = || async {
        let stripe = billing.stripe()?;
        let (db, catalogue) = (&billing.admin.db, &billing.admin.catalogue);
        let found = stripe::catalogue::find(stripe, catalogue).await?;
        let changes = stripe::catalogue::changes(catalogue, &found).len();
        let unbilled = unbilled::list(db, catalogue, Some(1)).await?.pop();
        Ok::<_, Error>((changes, unbilled))
    };
    while let Some(done) = after(pause, look, &life).await {
        match done {
            Ok((0, None)) => {
                info!("Stripe has all products, prices and meters of the catalogue");
                return;
            }
            Ok((changes, unbilled)) => {
                error!(
                    changes,
                    unbilled.stripe_subscription.id = unbilled.map(|of| of.stripe_subscription_id),
                    "Stripe does not have, or does not bill, all that the catalogue asks for: run `billing-worker stripe sync`"
                );
                return;
            }
            Err(Error::Stripe(failure)) if !failure.is_passing() => {
                error!("{failure}");
                return;
            }
            Err(failure) => {
                warn!("looking for our prices in Stripe failed, trying again in {AFTER_A_FAILURE:?}: {failure}")
            }
        }
        pause = AFTER_A_FAILURE;
    }
}

/// Tells Stripe what was used, every `REPORT_INTERVAL`. ClickHouse or Stripe being away postpones it.
pub async fn report(billing: Billing, life: Lifecycle) {
    let Ok(reporter) = billing.reporter() else {
        return;
    };
    let every = reporter.settings.report_interval;
    let step = || reports::step(reporter, billing.clock.now_s());
    while let Some(done) = after(every, step, &life).await {
        if let Err(failure) = done {
            reporter.metrics.failed_step();
            error!("usage was not reported in whole, trying again in {every:?}: {failure:#}");
        }
    }
}

/// Does one step after a pause; `None`: the service stops.
async fn after<T, F: Future<Output = T>>(pause: Duration, step: impl FnOnce() -> F, life: &Lifecycle) -> Option<T> {
    let step = async {
        sleep(pause).await;
        step().await
    };
    tokio::select! {
        done = step => Some(done),
        () = life.stopping() => None,
    }
}

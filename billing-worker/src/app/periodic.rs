//! Periodic jobs: each is a loop over one step. A step may be interrupted at any time and may run in several workers at once.

use std::{future::Future, sync::Arc, time::Duration};

use clickhouse::Client;
use schema::{Catalogue, clock};
use service::Lifecycle;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::{
    accounts::pool_limits,
    administration::Administration,
    check::{
        self,
        row::{Level, Row},
    },
    corrections::duplicates::{self, Returns},
    error::Error,
    findings,
    metrics::Metrics,
    reports, retention,
    spend_caps::arm,
    subscriptions::{
        billing::Billing,
        portal,
        selling::{self, Unused},
        slices,
    },
    tasks, webhook,
};

/// Deletes rows whose retention is over, once a day. If ClickHouse is unavailable, it runs later.
pub async fn retain(db: PgPool, clickhouse: Client, catalogue: Arc<Catalogue>, life: Lifecycle) {
    /// Short enough for a worker that restarts every day. Long enough that a worker that crashes soon after its start deletes
    /// nothing.
    const FIRST_AFTER: Duration = Duration::from_secs(5 * 60);
    const EVERY: Duration = Duration::from_secs(24 * 3_600);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(3_600);
    /// Between steps of one day, to leave ClickHouse time for other queries.
    const BETWEEN: Duration = Duration::from_secs(5);

    let mut pause = FIRST_AFTER;
    let step = || retention::step::step(&db, &clickhouse, &catalogue, clock::now());
    while let Some(done) = after(pause, step, &life).await {
        pause = match done {
            Ok(retained) if retained.more => BETWEEN,
            Ok(_) => EVERY,
            Err(failure) => {
                error!("retention failed, retrying in {AFTER_A_FAILURE:?}: {failure:#}");
                AFTER_A_FAILURE
            }
        };
    }
}

/// Compares the pools with the limits in force. A change of a limit updates the pools itself; this finds the
/// pools that it missed: one opened with the old limit while the catalogue was copied, or one that became current when a
/// subscription ended.
pub async fn refresh_limits(admin: Administration, life: Lifecycle) {
    const EVERY: Duration = Duration::from_secs(10 * 60);
    let step = || pool_limits::refresh(&admin, clock::now_s());
    while let Some(done) = after(EVERY, step, &life).await {
        match done {
            Ok(0) => {}
            Ok(accounts) => info!(accounts, "updated limits of pools"),
            Err(failure) => warn!("comparing limits failed, retrying in {EVERY:?}: {failure}"),
        }
    }
}

/// Returns the units of dropped duplicates to their pools, and looks once an hour for duplicates that an audit stored late. If
/// ClickHouse is unavailable, it runs later.
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
                warn!("returning units of duplicates failed, retrying in {AFTER_A_FAILURE:?}: {failure:#}");
                AFTER_A_FAILURE
            }
        };
    }
}

/// Fetches events that Stripe could not deliver, at the start and every hour.
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
                        "fetched events that Stripe could not deliver: check the webhook endpoint in Stripe"
                    );
                }
                EVERY
            }
            Err(failure) => {
                let what = "fetching undelivered events from Stripe failed";
                match failure.is_permanent() {
                    true => error!("{what}, retrying in {AFTER_A_FAILURE:?}: {failure}"),
                    false => warn!("{what}, retrying in {AFTER_A_FAILURE:?}: {failure}"),
                }
                AFTER_A_FAILURE
            }
        };
    }
}

/// Compares all subscriptions with Stripe, and deletes old events and tasks, once a day.
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
                reversals = compared.reversals,
                "compared subscriptions with Stripe"
            ),
            Err(failure) => warn!("comparing subscriptions with Stripe failed, retrying in {EVERY:?}: {failure}"),
        }
        match webhook::inbox::forget(&billing.admin.db).await {
            Ok(0) => {}
            Ok(events) => info!(events, "deleted old Stripe events"),
            Err(failure) => warn!("deleting old Stripe events failed, retrying in {EVERY:?}: {failure}"),
        }
        match tasks::repository::forget(&billing.admin.db).await {
            Ok(0) => {}
            Ok(tasks) => info!(tasks, "deleted old tasks"),
            Err(failure) => warn!("deleting old tasks failed, retrying in {EVERY:?}: {failure}"),
        }
        pause = EVERY;
    }
}

/// Runs the tasks in Stripe that are due.
pub async fn run_tasks(billing: Billing, life: Lifecycle) {
    const EVERY: Duration = Duration::from_secs(1);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(5);
    let mut pause = EVERY;
    while let Some(done) = after(pause, || tasks::worker::step(&billing), &life).await {
        pause = match done {
            Ok(_) => EVERY,
            Err(failure) => {
                warn!("reading the tasks in Stripe failed, retrying in {AFTER_A_FAILURE:?}: {failure}");
                AFTER_A_FAILURE
            }
        };
    }
}

/// Arms spend caps that were just set.
pub async fn arm_spend_caps(admin: Administration, metrics: Metrics, life: Lifecycle) {
    const EVERY: Duration = Duration::from_secs(1);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(5);
    let mut pause = EVERY;
    let step = || arm::step(&admin, &metrics.reports.watermark, clock::now_s());
    while let Some(done) = after(pause, step, &life).await {
        pause = match done {
            Ok(waiting) => {
                metrics.spend_caps_waiting.set(waiting);
                EVERY
            }
            Err(failure) => {
                warn!("reading the spend caps failed, retrying in {AFTER_A_FAILURE:?}: {failure}");
                AFTER_A_FAILURE
            }
        };
    }
}

/// Shows open tasks and findings as metrics.
pub async fn show_attention(db: PgPool, metrics: Metrics, life: Lifecycle) {
    const EVERY: Duration = Duration::from_secs(10);
    let count = || async {
        let open = tasks::repository::counts(&db).await?;
        Ok::<_, Error>((open, findings::repository::counts(&db).await?))
    };
    let mut pause = Duration::ZERO;
    while let Some(counts) = after(pause, count, &life).await {
        match counts {
            Ok((open, found)) => {
                metrics.tasks.show(&open);
                metrics.findings.show(&found);
            }
            Err(failure) => warn!("counting tasks and findings failed, retrying in {EVERY:?}: {failure}"),
        }
        pause = EVERY;
    }
}

/// Logs at the start whether Stripe accepts our key and has our prices and portal, and whether subscriptions use them. The rest of
/// the service runs in any case.
pub async fn check_stripe(billing: Billing, life: Lifecycle) {
    const AFTER_A_FAILURE: Duration = Duration::from_secs(60);
    let mut pause = Duration::ZERO;
    let look = || async {
        // An earlier version stored no id.
        let stripe = billing.stripe()?;
        if portal::configuration(&billing.admin.db, stripe.is_live())
            .await?
            .is_none()
        {
            portal::remember(&billing).await?;
        }
        // And no prices of versions.
        if selling::compare(stripe, &billing.admin, Unused::Keep)
            .await?
            .changes
            .is_empty()
        {
            selling::store(stripe, &billing.admin).await?;
        }
        let versions = webhook::comparison::find_versions(&billing).await?;
        if versions > 0 {
            info!(
                accounts = versions,
                "found the versions of plans that accounts have had before"
            );
        }
        check::at_start(&billing).await
    };
    while let Some(done) = after(pause, look, &life).await {
        match done {
            Ok(rows) => {
                for Row { level, what, mend } in rows {
                    let mend = mend.unwrap_or_default();
                    match level {
                        Level::Ok => info!("{what}"),
                        Level::Unchecked | Level::Warning => warn!("{what}: {mend}"),
                        Level::Error => error!("{what}: {mend}"),
                    }
                }
                return;
            }
            Err(failure) if failure.is_permanent() => {
                error!("{failure}");
                return;
            }
            Err(failure) => {
                warn!("checking our prices in Stripe failed, retrying in {AFTER_A_FAILURE:?}: {failure}")
            }
        }
        pause = AFTER_A_FAILURE;
    }
}

/// Reports usage to Stripe every `REPORT_INTERVAL`. If ClickHouse or Stripe is unavailable, it runs later.
pub async fn report(billing: Billing, life: Lifecycle) {
    let Ok(reporter) = billing.reporter() else {
        return;
    };
    let every = reporter.settings.report_interval;
    let step = || async {
        // A failure concerns usage that is charged, and not that which is reported.
        let slices = slices::step(&billing).await;
        reports::step(reporter, billing.clock.now_s()).await?;
        slices
    };
    while let Some(done) = after(every, step, &life).await {
        if let Err(failure) = done {
            reporter.metrics.failed_step();
            error!("not all usage was reported to Stripe, retrying in {every:?}: {failure:#}");
        }
    }
}

/// Checks once a day, and after each final invoice, whether the invoices are what is owed. If ClickHouse or Stripe is unavailable,
/// it runs later.
pub async fn check_money(billing: Billing, life: Lifecycle) {
    const EVERY: Duration = Duration::from_secs(60);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(300);
    let Ok(reporter) = billing.reporter() else {
        return;
    };
    let mut pause = EVERY;
    while let Some(done) = after(pause, || reports::daily::step(reporter, billing.clock.now_s()), &life).await {
        pause = match done {
            Ok(checked) if checked.has_more => Duration::ZERO,
            Ok(_) => EVERY,
            Err(failure) => {
                error!("the money of accounts was not checked, retrying in {AFTER_A_FAILURE:?}: {failure:#}");
                AFTER_A_FAILURE
            }
        };
    }
}

/// Runs one step after a pause; `None`: the service stops.
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

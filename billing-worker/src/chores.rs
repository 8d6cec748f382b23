//! What is done again and again: each chore is a loop over one step. Steps may be cut off at any time and may run in several
//! workers at once.

use std::{future::Future, sync::Arc, time::Duration};

use clickhouse::Client;
use schema::{Catalogue, clock};
use service::Lifecycle;
use sqlx::PgPool;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::{administration::Administration, limits, retention};

/// Deletes rows whose retention is over, once a day. ClickHouse being away postpones it.
pub async fn retain(db: PgPool, clickhouse: Client, catalogue: Arc<Catalogue>, life: Lifecycle) {
    /// A worker that is restarted every day does its day's work, too; one that cannot stay up does not begin it.
    const FIRST_AFTER: Duration = Duration::from_secs(5 * 60);
    const EVERY: Duration = Duration::from_secs(24 * 3_600);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(3_600);
    /// Between steps of one day: ClickHouse has others to serve.
    const BETWEEN: Duration = Duration::from_secs(5);

    let mut pause = FIRST_AFTER;
    let step = || retention::step(&db, &clickhouse, &catalogue, clock::now());
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
    let step = || limits::refresh(&admin, clock::now_s());
    while let Some(done) = after(EVERY, step, &life).await {
        match done {
            Ok(0) => {}
            Ok(accounts) => info!(accounts, "brought limits of running periods in line"),
            Err(failure) => warn!("comparing limits failed, trying again in {EVERY:?}: {failure}"),
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

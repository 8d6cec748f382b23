//! Keeps the gateway in a run: when the run is fenced, the next one begins.

use std::time::Duration;

use anyhow::Result;
use lane::run::{Run, Runs};
use schema::RunId;
use service::{Backoff, Lifecycle};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{accounts::Accounts, quota::quotas::Quotas, recording::publisher::Publisher};

/// After a run of this length the next one begins at once. A shorter one counts as a failed start.
const RUN_SETTLED_IN: Duration = Duration::from_secs(60);

/// The parts that a run serves.
pub(super) struct Parts {
    pub publisher: Publisher,
    pub quotas: Quotas,
    pub accounts: Accounts,
}

/// Replaces a fenced run by a new one until `stop`. Then returns the last run, if there is one.
pub(super) async fn keep(
    runs: Runs,
    mut run: Run,
    parts: Parts,
    changes: watch::Sender<RunId>,
    life: Lifecycle,
    stop: CancellationToken,
) -> Result<Option<Run>> {
    let Parts {
        publisher,
        quotas,
        accounts,
    } = parts;
    let mut lost = quotas.run_lost();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let began = Instant::now();
        tokio::select! {
            () = stop.cancelled() => return Ok(Some(run)),
            () = run.fenced() => {}
            found = async { lost.wait_for(|lost| *lost == Some(run.id)).await.is_ok() } => {
                if !found {
                    stop.cancelled().await;
                    return Ok(Some(run));
                }
                run.give_up();
            }
        }
        error!(run.id = %run.id, "the run was fenced: its leases and lanes are dropped, and a new run begins");
        publisher.remove();
        quotas.drop_run();
        if began.elapsed() > RUN_SETTLED_IN {
            backoff.reset();
        }
        let next = async {
            tokio::time::sleep(backoff.next_delay()).await;
            runs.begin().await
        };
        let Some(begun) = stop.run_until_cancelled(next).await else {
            return Ok(None);
        };
        let (next, lanes) = begun.inspect_err(|failure| {
            error!("cannot begin a new run: {failure:#}");
            life.stop();
        })?;
        // A spend cap that was set while this gateway had no run was not announced to it: see `accounts::announcements`.
        if stop.run_until_cancelled(reread(&accounts)).await.is_none() {
            return Ok(Some(next));
        }
        publisher.install(lanes);
        quotas.start_run(next.id);
        // Last, so that requests that wait for the new run find its lanes and leases.
        changes.send_replace(next.id);
        run = next;
    }
}

/// Reads all accounts again. Without this, no request is admitted in the new run.
async fn reread(accounts: &Accounts) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while !accounts.refresh_all().await {
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

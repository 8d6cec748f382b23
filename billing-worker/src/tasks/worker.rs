//! Runs tasks that are due: reads Stripe's state and does what is missing, under the account's lease. Several workers may run at
//! once: each looks again under the lease whether the task is still due.

use futures_util::{StreamExt, stream};
use schema::AccountId;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::repository::{self, OpenTask, TaskKind};
use crate::{
    accounts::customers,
    error::Error,
    stripe::StripeError,
    subscriptions::{
        billing::Billing,
        completion::{Completion, Progress},
        lease::Lease,
        leftover::Leftover,
        migrate, refresh,
        restore::Restore,
    },
};

/// Tasks of one step, and how many of them run at the same time: each waits for Stripe most of the time.
const AT_ONCE: i64 = 64;
const CONCURRENT: usize = 8;

/// Tries the tasks that are due, once each. Returns how many it tried.
pub async fn step(billing: &Billing) -> Result<usize, Error> {
    let due = repository::due(&billing.admin.db, AT_ONCE).await?;
    let mut tries = stream::iter(due)
        .map(|(id, account)| attempt(billing, id, account))
        .buffer_unordered(CONCURRENT);
    let mut tried = 0;
    while let Some(was_due) = tries.next().await {
        tried += usize::from(was_due);
    }
    Ok(tried)
}

/// `false`: another works on the account, or has completed the task.
async fn attempt(billing: &Billing, id: Uuid, account: AccountId) -> bool {
    let billing = &billing.of(account);
    let tried = async {
        let lease = billing.lease(account).await?;
        let tried = leased(billing, &lease, id).await;
        lease.release().await;
        tried
    };
    match tried.await {
        Ok(was_due) => was_due,
        Err(Error::NoSlot | Error::LeaseLost | Error::Stripe(StripeError::Full)) => false,
        Err(failure) => {
            warn!(account.id = %account, task.id = %id, "could not try a task, retrying: {failure}");
            false
        }
    }
}

async fn leased(billing: &Billing, lease: &Lease, id: Uuid) -> Result<bool, Error> {
    let (db, account) = (&billing.admin.db, lease.account());
    let Some(task) = repository::still_due(db, id).await? else {
        return Ok(false);
    };
    lease.renew().await?;
    match run(billing, lease, &task).await {
        Ok(Ran::Waits) => repository::wait(db, id).await?,
        Ok(Ran::Done) => {
            let mut tx = lease.begin().await?;
            repository::done(&mut *tx, id).await?;
            tx.commit().await?;
            info!(account.id = %account, task.kind = task.kind, attempts = task.attempts, "completed a task in Stripe");
        }
        Err(failure @ (Error::NoSlot | Error::LeaseLost | Error::Stripe(StripeError::Full))) => return Err(failure),
        Err(failure) => {
            let state = repository::failed(db, id, &failure.to_string(), task.attempts).await?;
            let attempts = task.attempts + 1;
            match state.as_deref() {
                Some("attention") => error!(
                    account.id = %account, task.kind = task.kind, attempts,
                    "a task in Stripe has failed for a day, see `billing-worker reports attention`: {failure}"
                ),
                _ => {
                    warn!(account.id = %account, task.kind = task.kind, attempts, "a task in Stripe failed: {failure}")
                }
            }
        }
    }
    Ok(true)
}

enum Ran {
    Done,
    /// For something that has not happened yet.
    Waits,
}

/// Does what the task asks for, and stores Stripe's state.
async fn run(billing: &Billing, lease: &Lease, task: &OpenTask) -> Result<Ran, Error> {
    let unreadable = |why: String| Error::Conflict(format!("the task was written by a newer version ({why})"));
    match TaskKind::from_stored(&task.kind).ok_or_else(|| unreadable(task.kind.clone()))? {
        TaskKind::RestorePlan => {
            let restore = Restore::from_args(&task.args).map_err(|error| unreadable(error.to_string()))?;
            // Fails if Stripe does not know the customer, because the key belongs to another account or mode.
            refresh::store(billing, lease, &restore.customer).await?;
            let customer = customers::find(&billing.admin.db, lease.account(), billing.stripe()?.is_live()).await?;
            if customer.as_deref() != Some(restore.customer.as_str()) {
                // Stripe deletes a customer's subscriptions with the customer.
                return Ok(Ran::Done);
            }
            restore.settle(billing, lease.account()).await?;
            refresh::store(billing, lease, &restore.customer).await?;
            Ok(Ran::Done)
        }
        TaskKind::CompleteUpgrade => {
            let completion = Completion::from_args(&task.args).map_err(|error| unreadable(error.to_string()))?;
            let progress = completion.settle(billing).await?;
            refresh::store(billing, lease, &completion.customer).await?;
            Ok(match progress {
                Progress::Waits => Ran::Waits,
                Progress::Complete | Progress::Undone => Ran::Done,
            })
        }
        TaskKind::RemoveItems => {
            let leftover = Leftover::from_args(&task.args).map_err(|error| unreadable(error.to_string()))?;
            if !leftover.remove(billing, lease.account()).await? {
                return Ok(Ran::Waits);
            }
            refresh::store(billing, lease, &leftover.customer).await?;
            Ok(Ran::Done)
        }
        TaskKind::Migrate => {
            migrate::settle(billing, lease, task.id, &task.args).await?;
            Ok(Ran::Done)
        }
    }
}

//! Processes the inbox: retries each event until it is applied. A worker processes up to [`GROUPS_MAX`] customers at the same
//! time, independently of each other.

use std::{sync::Arc, time::Duration};

use service::Lifecycle;
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::sleep,
};
use tracing::{debug, error, warn};

use super::{
    claims::{self, Group, Received, Settlement},
    effect,
};
use crate::{
    error::Error,
    metrics::Metrics,
    stripe::StripeError,
    subscriptions::{billing::Billing, slots::SLOTS_OF_A_SIDE},
};

/// The number of slots for work with Stripe.
const GROUPS_MAX: usize = SLOTS_OF_A_SIDE;

/// A third of a claim's length.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// How long an event waits while another worker or a caller uses the account.
const POSTPONED_S: i64 = 2;

/// After this many attempts, over about two days, an event is parked.
const ATTEMPTS_MAX: i32 = 20;

/// While an invoice is a draft, usage that is reported is still on it: the longest pause between two attempts.
const DRAFT_PAUSE_MAX_S: i64 = 60;
/// 72 hours, the longest time that Stripe keeps an invoice as a draft before it becomes final by itself.
const DRAFT_ATTEMPTS_MAX: i32 = 72 * 60;

/// Processes new events, and events that are due again, until the service stops. Then waits for the groups in progress.
pub async fn run(billing: Billing, metrics: Metrics, inbox: Arc<Notify>, life: Lifecycle) {
    /// How often to look for events that another worker stored, or that are due again.
    const EVERY: Duration = Duration::from_secs(1);
    const AFTER_A_FAILURE: Duration = Duration::from_secs(5);
    let mut groups = JoinSet::new();
    while !life.is_stopping() {
        let (pause, is_failure) = match claim(&billing, &metrics, &mut groups).await {
            // There may be more.
            Ok(1..) if groups.len() < GROUPS_MAX => continue,
            Ok(_) => (EVERY, false),
            Err(failure) => {
                warn!("reading the inbox failed, retrying in {AFTER_A_FAILURE:?}: {failure}");
                (AFTER_A_FAILURE, true)
            }
        };
        tokio::select! {
            () = life.stopping() => {}
            // After a failure, only the pause or a stop ends the wait.
            Some(ended) = groups.join_next(), if !is_failure => seen(ended),
            () = inbox.notified(), if !is_failure => {}
            () = sleep(pause) => {}
        }
    }
    while let Some(ended) = groups.join_next().await {
        seen(ended);
    }
}

/// Processes all claimed groups of due events to their end. Returns their number.
pub async fn step(billing: &Billing, metrics: &Metrics) -> Result<usize, Error> {
    let mut groups = JoinSet::new();
    let begun = claim(billing, metrics, &mut groups).await?;
    while let Some(ended) = groups.join_next().await {
        seen(ended);
    }
    Ok(begun)
}

async fn claim(billing: &Billing, metrics: &Metrics, groups: &mut JoinSet<()>) -> Result<usize, Error> {
    let room = GROUPS_MAX.saturating_sub(groups.len());
    if room == 0 {
        return Ok(0);
    }
    let claimed = claims::claim(&billing.admin.db, room).await?;
    let count = claimed.len();
    for group in claimed {
        groups.spawn(work(billing.clone(), metrics.clone(), group));
    }
    Ok(count)
}

/// Resumes a panic of a group in the worker.
fn seen(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn work(billing: Billing, metrics: Metrics, group: Group) {
    let done = tokio::select! {
        done = effect::apply(&billing, group.customer.as_deref(), &group.events) => done,
        () = keep(&billing, &group) => return,
    };
    let is_permanent = done.as_ref().is_err_and(Error::is_permanent);
    for event in &group.events {
        let settlement = settlement(event, &done);
        let settled = claims::settle(&billing.admin.db, &group, event, &settlement).await;
        match settled {
            Ok(()) => note(&metrics, event, &settlement, is_permanent),
            Err(failure) => warn!(
                event.id = event.id,
                "could not store the result of an event, it will be processed again: {failure}"
            ),
        }
    }
}

/// Renews the claim on a group; returns when another worker has it.
async fn keep(billing: &Billing, group: &Group) {
    loop {
        sleep(RENEW_EVERY).await;
        match claims::renew(&billing.admin.db, group).await {
            Ok(true) => {}
            Ok(false) => {
                warn!(
                    customer.id = group.customer,
                    "another worker took over a customer's events"
                );
                return;
            }
            Err(failure) => warn!(
                customer.id = group.customer,
                "could not renew the claim on events: {failure}"
            ),
        }
    }
}

fn settlement(event: &Received, done: &Result<bool, Error>) -> Settlement {
    match done {
        Ok(is_applied) => Settlement::Done {
            is_applied: *is_applied,
        },
        Err(Error::NoSlot | Error::LeaseLost | Error::Stripe(StripeError::Full)) => {
            Settlement::Postponed { delay_s: POSTPONED_S }
        }
        // Only for a draft: the attempt after it became final succeeds, and the usage is carried.
        Err(failure @ (Error::UsageNotStored(_) | Error::UsageUnreported(_)))
            if event.attempts < DRAFT_ATTEMPTS_MAX =>
        {
            Settlement::Failed {
                why: failure.to_string(),
                delay_s: delay_s(event.attempts).min(DRAFT_PAUSE_MAX_S),
            }
        }
        Err(failure) if event.attempts >= ATTEMPTS_MAX => Settlement::Parked {
            why: failure.to_string(),
        },
        Err(failure) => Settlement::Failed {
            why: failure.to_string(),
            delay_s: delay_s(event.attempts),
        },
    }
}

fn note(metrics: &Metrics, event: &Received, settlement: &Settlement, is_permanent: bool) {
    match settlement {
        Settlement::Done { .. } => metrics.webhook_done(),
        Settlement::Postponed { delay_s } => debug!(
            event.id = event.id,
            "the account is in use, retrying the event in {delay_s} s"
        ),
        // It is retried all the same: an operator may mend the cause within the two days.
        Settlement::Failed { why, delay_s } if is_permanent => error!(
            event.id = event.id,
            kind = event.kind,
            "Stripe refuses what an event needs, retrying in {delay_s} s: {why}"
        ),
        Settlement::Failed { why, delay_s } => warn!(
            event.id = event.id,
            kind = event.kind,
            "processing an event failed, retrying in {delay_s} s: {why}"
        ),
        Settlement::Parked { why } => {
            metrics.webhook_parked();
            error!(
                event.id = event.id,
                kind = event.kind,
                attempts = event.attempts,
                "parked an event, `billing-worker stripe retry` tries it again: {why}"
            );
        }
    }
}

/// 2 s, 4 s … up to four hours.
fn delay_s(attempts: i32) -> i64 {
    (1_i64 << attempts.clamp(1, 14)).min(4 * 3_600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_tried_for_a_day_before_it_is_parked() {
        let total_s: i64 = (1..ATTEMPTS_MAX).map(delay_s).sum();
        assert!(total_s > 24 * 3_600, "{total_s}");
        assert_eq!((delay_s(1), delay_s(2), delay_s(40)), (2, 4, 14_400));
    }
}

//! Whether an account may start a subscription now, and with which trial.

use schema::{AccountId, Plan};
use sqlx::PgPool;

use super::{
    billing::Billing,
    running::Running,
    unpaid::{self, Begun},
};
use crate::error::Error;

/// Fails if the customer already has a subscription, because a second one would be billed as well.
pub(super) async fn refuse_second(billing: &Billing, customer: &str) -> Result<(), Error> {
    match Running::of_customer(billing, customer.to_owned()).await {
        Ok(running) => Err(Error::AlreadySubscribed {
            plan: running.plan().unwrap_or_default().to_owned(),
        }),
        Err(Error::NotSubscribed) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Cancels subscriptions that were begun and not paid. Fails with [`Error::AlreadySubscribed`] if one was paid meanwhile.
pub(super) async fn cancel_unpaid(billing: &Billing, customer: &str, begun: &[Begun]) -> Result<(), Error> {
    if begun.is_empty() {
        return Ok(());
    }
    let given_up = unpaid::give_up(billing, begun).await;
    refuse_second(billing, customer).await?;
    given_up
}

/// Returns the days of the trial. An account has one trial, for any plan. A trial that no event has reported yet also counts.
pub(super) async fn trial_days(
    db: &PgPool,
    billing: &Billing,
    account: AccountId,
    customer: &str,
    plan: &Plan,
) -> Result<Option<u32>, Error> {
    if plan.trial_days == 0 {
        return Ok(None);
    }
    let had_one = sqlx::query_scalar!(
        r#"select exists (select from subscriptions where account_id = $1 and trial_ends_at is not null) as "had_one!""#,
        account.0
    )
    .fetch_one(db)
    .await?;
    let had_one = had_one || Running::has_had_trial(billing, customer).await?;
    Ok(Some(plan.trial_days).filter(|_| !had_one))
}

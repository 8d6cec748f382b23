//! Whether an account may start a subscription now, and with which trial.

use schema::{AccountId, Plan};
use sqlx::PgPool;

use super::{
    billing::Billing,
    listing, owed,
    running::Running,
    unpaid::{self, Begun},
};
use crate::{accounts::status::AccountStatus, error::Error, stripe::object::Subscription};

/// Fails if the account may buy nothing now: an operator suspended it, or it owes an invoice of an earlier subscription.
pub(super) async fn refuse_buyer(billing: &Billing, account: AccountId) -> Result<(), Error> {
    let status = sqlx::query_scalar!("select status from accounts where id = $1", account.0)
        .fetch_optional(&billing.admin.db)
        .await?;
    if status.as_deref() == Some(AccountStatus::Suspended.as_str()) {
        return Err(Error::AccountSuspended);
    }
    owed::refuse_left(billing, account).await
}

/// Fails if the customer already has a subscription, because a second one would be billed as well. The first one may be for a
/// plan that nobody recognises here.
pub(super) async fn refuse_second(billing: &Billing, customer: &str) -> Result<(), Error> {
    let all = listing::all(billing.stripe()?, customer).await?;
    if let Some(item) = listing::current(&all).and_then(Subscription::plan_item) {
        return Err(Error::AlreadySubscribed {
            plan: item.price.plan().unwrap_or_default().to_owned(),
        });
    }
    match listing::unknown(&all) {
        Some(unknown) => Err(Error::UnknownSubscription {
            subscription: unknown.id.clone(),
        }),
        None => Ok(()),
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

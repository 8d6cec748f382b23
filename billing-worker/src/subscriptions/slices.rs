//! Begins and closes the [slices](super::month) of subscriptions that are not paid monthly. No event of Stripe tells that a slice
//! begins, so a job looks for those that are over.

use anyhow::{Context, Result};
use schema::{AccountId, period::instant};
use tracing::{info, warn};

use super::{billing::Billing, refresh};
use crate::{error::Error, stored};

/// Usage that was admitted in the last moment of a slice is stored soon after it.
const CHARGED_AFTER_S: i64 = 3_600;
/// Accounts of one step.
const ACCOUNTS_MAX: i64 = 500;

/// The result of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Subscriptions whose next slice began.
    pub begun: u64,
    /// Slices whose usage can be charged now.
    pub closed: u64,
}

/// Begins the slices that follow those that are over, and closes those whose usage is due. Called before usage is counted. An
/// account that fails does not stop the others.
pub async fn step(billing: &Billing) -> Result<Step> {
    let mut step = Step::default();
    for account in over(billing).await.context("reading subscriptions")? {
        match refresh::refresh(billing, account).await {
            Ok(_) => step.begun += 1,
            Err(failure) => {
                warn!(account.id = %account, "the next month of a subscription is not stored yet: {failure}")
            }
        }
    }
    for account in due(billing).await.context("reading months to charge")? {
        match close(billing, account).await {
            Ok(closed) => step.closed += closed,
            Err(failure) => warn!(account.id = %account, "usage is not charged yet: {failure}"),
        }
    }
    Ok(step)
}

/// Accounts whose known slice is over.
async fn over(billing: &Billing) -> Result<Vec<AccountId>, Error> {
    let ids = sqlx::query_scalar!(
        "select account_id from subscriptions s
         where is_current and interval_months <> 1 and status <> 'paused' and period_end <= $1
             and exists (select from stripe_customers c where c.account_id = s.account_id and c.livemode = $3)
         order by period_end limit $2",
        instant(billing.clock.now_s()),
        ACCOUNTS_MAX,
        billing.stripe()?.is_live()
    );
    let ids = ids.fetch_all(&billing.admin.db).await?;
    Ok(ids.into_iter().map(AccountId).collect())
}

/// Accounts with slices whose usage can be charged.
async fn due(billing: &Billing) -> Result<Vec<AccountId>, Error> {
    let ids = sqlx::query_scalar!(
        "select account_id from billing_periods p
         where billed_by = 'charge' and final_at is null and coalesce(bills_at, period_end) <= $1
             and exists (select from stripe_customers c where c.account_id = p.account_id and c.livemode = $3)
         group by account_id order by min(period_end) limit $2",
        instant(billing.clock.now_s() - CHARGED_AFTER_S),
        ACCOUNTS_MAX,
        billing.stripe()?.is_live()
    );
    let ids = ids.fetch_all(&billing.admin.db).await?;
    Ok(ids.into_iter().map(AccountId).collect())
}

/// From now on the usage of these slices is charged, once all that was acknowledged is stored. What comes later is charged, too.
async fn close(billing: &Billing, account: AccountId) -> Result<u64, Error> {
    let now = billing.clock.now_s();
    let metrics = &billing.reporter()?.metrics.watermark;
    stored::wait(&billing.admin, metrics, account, billing.settings.usage_stored_wait).await?;
    let closed = sqlx::query!(
        "update billing_periods set final_at = $2
         where account_id = $1 and billed_by = 'charge' and final_at is null and coalesce(bills_at, period_end) <= $3",
        account.0,
        instant(now),
        instant(now - CHARGED_AFTER_S)
    )
    .execute(&billing.admin.db)
    .await?
    .rows_affected();
    info!(account.id = %account, slices = closed, "usage of months can be charged");
    Ok(closed)
}

//! The accounts that have billing periods to report. [`protocol::reports::period`] defines how a period is reported to Stripe.

pub use protocol::reports::period::{BillingPeriod, Late, Way, Window};
use schema::{AccountId, period::instant};

use super::Reporter;
use crate::error::Error;

/// The next accounts, by id, that have periods which are not frozen. Those that are customers in Stripe's other mode are not ours.
pub async fn accounts(reporter: &Reporter, after: AccountId, limit: i64, now: i64) -> Result<Vec<AccountId>, Error> {
    let ids = sqlx::query_scalar!(
        "select distinct account_id from billing_periods p
         where frozen_at is null and period_start <= $2 and account_id > $1
             and not exists (select from stripe_customers c where c.account_id = p.account_id and c.livemode <> $4)
         order by account_id limit $3",
        after.0,
        instant(now),
        limit,
        reporter.stripe.is_live()
    )
    .fetch_all(&reporter.db)
    .await?;
    Ok(ids.into_iter().map(AccountId).collect())
}

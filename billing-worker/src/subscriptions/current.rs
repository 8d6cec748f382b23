//! Reads the current subscription of accounts, and the plan that results from it.

use std::collections::HashMap;

use schema::{
    AccountId, CurrentPlan, Period, SubscriptionId,
    subscription::{Subscription, SubscriptionStatus},
};
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::Error;

/// Returns the plan of an account at `now`.
pub async fn plan(db: impl PgExecutor<'_>, account: AccountId, now: i64) -> Result<CurrentPlan, Error> {
    let current = subscriptions(db, &[account]).await?;
    Ok(CurrentPlan::at(current.get(&account), now))
}

/// Returns the current subscription of each account that has one.
pub async fn subscriptions(
    db: impl PgExecutor<'_>,
    accounts: &[AccountId],
) -> Result<HashMap<AccountId, Subscription>, Error> {
    let ids: Vec<_> = accounts.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select id, account_id, plan_id, status, period_start, period_end, billing_anchor, ends_at, then_plan_id,
                grace_until, paid_until, stripe_subscription_id is not null as "in_stripe!"
         from subscriptions where is_current and account_id = any($1)"#,
        &ids
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let unreadable = || sqlx::Error::Decode(format!("subscription status `{}` is unknown", row.status).into());
            let subscription = Subscription {
                id: SubscriptionId(row.id),
                status: SubscriptionStatus::from_stored(&row.status).ok_or_else(unreadable)?,
                plan: row.plan_id,
                period: Period {
                    start: row.period_start.unix_timestamp(),
                    end: row.period_end.unix_timestamp(),
                },
                anchor: row.billing_anchor.unix_timestamp(),
                ends_at: row.ends_at.map(OffsetDateTime::unix_timestamp),
                then_plan: row.then_plan_id,
                grace_until: row.grace_until.map(OffsetDateTime::unix_timestamp),
                paid_until: row.paid_until.map(OffsetDateTime::unix_timestamp),
                in_stripe: row.in_stripe,
            };
            Ok((AccountId(row.account_id), subscription))
        })
        .collect()
}

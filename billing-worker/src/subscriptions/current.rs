//! Reads the current subscription of accounts, and the plan that results from it.

use std::{collections::HashMap, sync::Arc};

use schema::{
    AccountId, CurrentPlan, Period, PlanTerms, PlanVersion, SubscriptionId,
    subscription::{Subscription, SubscriptionStatus},
};
use sqlx::{PgExecutor, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

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
        r#"select s.id, s.account_id, s.plan_id, s.status, s.period_start, s.period_end, s.segment_start, s.billing_anchor, s.ends_at,
                s.then_plan_id, s.grace_until, s.paid_until, s.stripe_subscription_id is not null as "in_stripe!", s.currency,
                s.version_id, v.version as "version?", v.terms as "terms?: Json<PlanTerms>",
                s.then_version_id, t.version as "then_version?", t.terms as "then_terms?: Json<PlanTerms>"
         from subscriptions s
         left join plan_version_terms v on v.version_id = s.version_id
         left join plan_version_terms t on t.version_id = s.then_version_id
         where s.is_current and s.account_id = any($1)"#,
        &ids
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let unreadable = || sqlx::Error::Decode(format!("subscription status `{}` is unknown", row.status).into());
            let version = version(row.version_id, &row.plan_id, row.version, row.terms);
            let then_plan = row.then_plan_id.as_deref().unwrap_or_default();
            let then_version = self::version(row.then_version_id, then_plan, row.then_version, row.then_terms);
            let subscription = Subscription {
                id: SubscriptionId(row.id),
                status: SubscriptionStatus::from_stored(&row.status).ok_or_else(unreadable)?,
                plan: row.plan_id,
                version,
                period: Period {
                    start: row.period_start.unix_timestamp(),
                    end: row.period_end.unix_timestamp(),
                },
                segment_start: row.segment_start.map(OffsetDateTime::unix_timestamp),
                anchor: row.billing_anchor.unix_timestamp(),
                ends_at: row.ends_at.map(OffsetDateTime::unix_timestamp),
                then_plan: row.then_plan_id,
                then_version,
                grace_until: row.grace_until.map(OffsetDateTime::unix_timestamp),
                paid_until: row.paid_until.map(OffsetDateTime::unix_timestamp),
                in_stripe: row.in_stripe,
                currency: row.currency.parse().ok(),
            };
            Ok((AccountId(row.account_id), subscription))
        })
        .collect()
}

fn version(
    id: Option<Uuid>,
    plan: &str,
    number: Option<i32>,
    terms: Option<Json<PlanTerms>>,
) -> Option<Arc<PlanVersion>> {
    Some(Arc::new(PlanVersion {
        id: id?,
        plan: plan.to_owned(),
        number: number?,
        terms: terms?.0,
    }))
}

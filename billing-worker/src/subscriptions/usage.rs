//! Usage before it is billed: stored, reported, and counted by Stripe.
//!
//! An invoice that is made without these steps misses usage that customers were told is recorded. If a step fails, the change is
//! refused, and nothing is changed.

use std::time::Duration;

use schema::{AccountId, period::instant, subscription::SubscriptionStatus};
use service::Backoff;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::running::Running;
use crate::{
    error::Error,
    reports::{self, counted, counted::Counted},
    stored,
    subscriptions::billing::Billing,
};

/// When a caller may try again while Stripe has not counted all reported usage.
const COUNTED_AGAIN_S: i64 = 30;

/// Before a change that bills the usage so far at once: all acknowledged usage is reported, and Stripe has counted it.
pub(super) async fn bill_ready(billing: &Billing, account: AccountId, running: &Running) -> Result<(), Error> {
    let subscription = &running.subscription.id;
    report(billing, account, subscription).await?;
    // A trial's usage is not billed.
    if running.status() == Some(SubscriptionStatus::Trialing) {
        return Ok(());
    }
    refuse_reported_ahead(billing, account, subscription).await?;
    until_counted(billing, account, subscription).await
}

/// Reports all usage to Stripe that any gateway acknowledged before. Fails if some usage that the subscription still bills cannot
/// be reported: usage that is unreported when the invoice becomes final is not on it.
pub async fn report(billing: &Billing, account: AccountId, subscription: &str) -> Result<(), Error> {
    if bills_usage(billing, subscription).await? {
        let metrics = &billing.reporter()?.metrics.watermark;
        stored::wait(&billing.admin, metrics, account, billing.settings.usage_stored_wait).await?;
    }
    let flushed = reports::flush(billing.reporter()?, account, billing.clock.now_s())
        .await
        .map_err(|failure| Error::UsageUnreported(format!("{failure:#}")))?;
    let held = flushed.held.into_iter();
    let (starts, usage_types): (Vec<_>, Vec<_>) = held.map(|line| (instant(line.start), line.usage_type)).unzip();
    let unreported = sqlx::query_scalar!(
        r#"select count(*) as "unreported!" from (
               select period_start, usage_type from meter_reports where account_id = $1 and state in ('open', 'parked')
               union select * from unnest($3::timestamptz[], $4::text[]) as held (period_start, usage_type)
           ) as unreported
               join billing_periods p on p.account_id = $1 and p.period_start = unreported.period_start
           where p.stripe_subscription_id = $2 and p.final_at is null
               and exists (select from subscriptions s join subscription_items i on i.subscription_id = s.id
                   where s.stripe_subscription_id = p.stripe_subscription_id and i.usage_type = unreported.usage_type)"#,
        account.0,
        subscription,
        &starts,
        &usage_types
    )
    .fetch_one(&billing.admin.db)
    .await?;
    let is_held = sqlx::query_scalar!(
        r#"select exists (select from billing_periods
               where account_id = $1 and stripe_subscription_id = $2 and is_held and final_at is null) as "is_held!""#,
        account.0,
        subscription
    );
    if is_held.fetch_one(&billing.admin.db).await? {
        return Err(Error::UsageUnreported(
            "the subscription has not all prices of its plan yet".to_owned(),
        ));
    }
    match unreported {
        0 => Ok(()),
        unreported => Err(Error::UsageUnreported(format!(
            "{unreported} counts of the account wait for a report or have a parked report"
        ))),
    }
}

/// Without a metered item, usage costs nothing, and nothing is lost if it arrives later.
async fn bills_usage(billing: &Billing, subscription: &str) -> Result<bool, Error> {
    let bills = sqlx::query_scalar!(
        r#"select exists (select from subscriptions s join subscription_items i on i.subscription_id = s.id
               where s.stripe_subscription_id = $1 and i.usage_type is not null) as "bills!""#,
        subscription
    );
    Ok(bills.fetch_one(&billing.admin.db).await?)
}

/// Fails if some usage was reported with a timestamp in the future. In a period's first minute usage is reported for the next
/// minute (see [`protocol::reports::period`]), and would not be billed.
async fn refuse_reported_ahead(billing: &Billing, account: AccountId, subscription: &str) -> Result<(), Error> {
    let now = billing.clock.now_s();
    let ahead = sqlx::query_scalar!(
        "select max(r.reported_for) from meter_reports r
             join billing_periods p on p.account_id = r.account_id and p.period_start = r.period_start
             join subscriptions s on s.stripe_subscription_id = p.stripe_subscription_id
             join subscription_items i on i.subscription_id = s.id and i.usage_type = r.usage_type
         where r.account_id = $1 and r.reported_for >= $3 and p.stripe_subscription_id = $2",
        account.0,
        subscription,
        instant(now)
    )
    .fetch_one(&billing.admin.db)
    .await?;
    match ahead {
        None => Ok(()),
        Some(ahead) => Err(Error::ReportedAhead {
            wait_s: ahead.unix_timestamp() - now + 1,
        }),
    }
}

/// Waits until Stripe's summaries have the units that were reported for the subscription's open periods: an invoice has what
/// Stripe has counted when it is made.
async fn until_counted(billing: &Billing, account: AccountId, subscription: &str) -> Result<(), Error> {
    let (began, wait) = (Instant::now(), billing.settings.stripe_summary_wait);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    loop {
        let counted = counted::look(billing.reporter()?, account, subscription).await?;
        match counted {
            Counted::Equal => return Ok(()),
            _ if began.elapsed() < wait => sleep(backoff.next_delay()).await,
            Counted::Behind => {
                return Err(Error::UsageNotCounted {
                    wait_s: COUNTED_AGAIN_S,
                });
            }
            // Units of someone else, or that were counted twice, do not go away: the customer can still leave.
            Counted::Ahead => {
                warn!(account.id = %account, "Stripe has more units than were reported: run `billing-worker reconcile`");
                return Ok(());
            }
        }
    }
}

//! Late usage and credits to bill, as PostgreSQL has them. Claims end by the database's clock, like those of reports.

use anyhow::{Context, Result};
use protocol::reports::report::CLAIM;
use schema::{AccountId, period::instant};
use time::OffsetDateTime;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{reports::Reporter, stripe::StripeError};

/// The most items that one step makes for a page of accounts.
const ITEMS_MAX: i64 = 100;
/// Seconds until the next attempt after a failure.
const AGAIN: i64 = 900;

pub(super) struct Late {
    pub(super) id: Uuid,
    pub(super) account: AccountId,
    pub(super) usage_type: String,
    pub(super) from_period: i64,
    pub(super) period_end: i64,
    pub(super) customer: String,
    pub(super) units: i64,
    /// Units of the same line that were reported or billed before.
    pub(super) before: i64,
    pub(super) price: Option<String>,
    pub(super) attempts: i32,
    pub(super) first_sent_at: Option<i64>,
    /// The item, once it exists.
    pub(super) item: Option<Charged>,
    /// No subscription will produce another invoice.
    pub(super) is_over: bool,
    /// Usage of a trial.
    pub(super) is_trial: bool,
    /// It waits for a next period: it is only priced.
    pub(super) waits: bool,
}

#[derive(Clone)]
pub(super) enum Charged {
    Item {
        id: String,
        amount: i64,
        currency: String,
    },
    /// What units cost that still wait for a next period.
    Worth {
        amount: i64,
        currency: String,
    },
    Nothing {
        why: &'static str,
    },
}

pub(super) async fn claim(reporter: &Reporter, accounts: &[AccountId], now: i64) -> sqlx::Result<Vec<Late>> {
    let rows = sqlx::query!(
        r#"with claimed as (
               select c.id from meter_carries c
               where c.settled_at is null and (c.policy <> 'next_period' or c.amount is null) and c.account_id = any($1)
                   and (c.claimed_until is null or c.claimed_until <= now()) and c.next_attempt_at <= $2
               order by c.id limit $3 for update skip locked
           )
           update meter_carries c set claimed_until = now() + $4::bigint * interval '1 second'
           from claimed
               join meter_carries late on late.id = claimed.id
               join billing_periods p on p.account_id = late.account_id and p.period_start = late.from_period
               join meter_ledger l on l.account_id = late.account_id and l.period_start = late.from_period
                   and l.usage_type = late.usage_type
           where c.id = claimed.id
           returning c.id, c.account_id, c.usage_type, c.from_period, c.units, c.customer_id, c.attempts, c.first_sent_at,
               p.period_end, l.reported_units as reported,
               (select coalesce(sum(e.units), 0)::bigint from meter_carries e
                where e.account_id = c.account_id and e.from_period = c.from_period and e.usage_type = c.usage_type
                    and e.policy <> 'next_period' and e.id < c.id) as "earlier!",
               case when p.prices is not null then p.prices ->> c.usage_type else
                   (select i.price_id from subscription_items i join subscriptions s on s.id = i.subscription_id
                    where s.stripe_subscription_id = p.stripe_subscription_id and i.usage_type = c.usage_type
                    limit 1) end as price_id,
               c.invoice_item_id, c.amount, c.currency, c.policy = 'next_period' as "waits!",
               exists (select from subscriptions s where s.stripe_subscription_id = p.stripe_subscription_id
                   and p.period_end <= s.trial_ends_at) as "is_trial!",
               not exists (select from subscriptions s where s.account_id = c.account_id and s.is_current
                   and s.stripe_subscription_id is not null) as "is_over!""#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(now),
        ITEMS_MAX,
        CLAIM
    )
    .fetch_all(&reporter.db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Late {
            id: row.id,
            account: AccountId(row.account_id),
            usage_type: row.usage_type,
            from_period: row.from_period.unix_timestamp(),
            period_end: row.period_end.unix_timestamp(),
            customer: row.customer_id,
            units: row.units,
            before: row.reported.saturating_add(row.earlier),
            price: row.price_id,
            attempts: row.attempts,
            first_sent_at: row.first_sent_at.map(OffsetDateTime::unix_timestamp),
            item: row.invoice_item_id.map(|id| Charged::Item {
                id,
                amount: row.amount.unwrap_or(0),
                currency: row.currency.unwrap_or_default(),
            }),
            is_over: row.is_over,
            is_trial: row.is_trial,
            waits: row.waits,
        })
        .collect())
}

pub(super) async fn settle(reporter: &Reporter, late: &Late, charged: Charged, now: i64) -> sqlx::Result<()> {
    let (item, amount, currency, note) = match charged {
        Charged::Item { id, amount, currency } => (Some(id), amount, Some(currency), None),
        Charged::Worth { amount, currency } => (None, amount, Some(currency), None),
        Charged::Nothing { why } => (None, 0, None, Some(why)),
    };
    info!(
        carry.id = %late.id, account.id = %late.account, usage_type = late.usage_type, units = late.units, amount,
        invoice_item = item.as_deref(), note, "settled late usage"
    );
    sqlx::query!(
        "update meter_carries set invoice_item_id = $2, amount = $3, currency = $4, error = $5, settled_at = $6,
             claimed_until = null
         where id = $1",
        late.id,
        item,
        amount,
        currency,
        note,
        instant(now)
    )
    .execute(&reporter.db)
    .await?;
    Ok(())
}

/// Stores what units cost that wait for a next period, and ends the claim.
pub(super) async fn priced(reporter: &Reporter, late: &Late, worth: Charged) -> sqlx::Result<()> {
    let (amount, currency) = match worth {
        Charged::Worth { amount, currency } | Charged::Item { amount, currency, .. } => (amount, Some(currency)),
        Charged::Nothing { .. } => (0, None),
    };
    sqlx::query!(
        "update meter_carries set amount = $2, currency = $3, error = null, claimed_until = null
         where id = $1 and settled_at is null",
        late.id,
        amount,
        currency
    )
    .execute(&reporter.db)
    .await?;
    Ok(())
}

pub(super) async fn postpone(reporter: &Reporter, late: &Late, failure: StripeError, now: i64) -> sqlx::Result<()> {
    let account = late.account;
    match failure.is_passing() {
        true => warn!(carry.id = %late.id, account.id = %account, "late usage is not billed yet: {failure}"),
        false => error!(carry.id = %late.id, account.id = %account, "late usage cannot be billed: {failure}"),
    }
    // A failure that is known to have had no effect leaves nothing to look for.
    let unclear = matches!(
        failure,
        StripeError::Unknown(_) | StripeError::Failed(_) | StripeError::Unreadable(_)
    );
    sqlx::query!(
        "update meter_carries set error = $2, next_attempt_at = $3, claimed_until = null,
             first_sent_at = case when $4 then first_sent_at else $5::timestamptz end
         where id = $1 and attempts <= $6 + 2 and settled_at is null",
        late.id,
        failure.to_string(),
        instant(now + AGAIN),
        unclear,
        late.first_sent_at.map(instant),
        late.attempts
    )
    .execute(&reporter.db)
    .await?;
    Ok(())
}

/// Records the attempt and commits before the call. After a crash the item is looked for before another one is made, but not
/// while the call may still be in progress. `false`: another worker has the carry.
pub(super) async fn begin(reporter: &Reporter, late: &Late, amount: i64, currency: &str, now: i64) -> Result<bool> {
    let ours = sqlx::query!(
        "update meter_carries set attempts = $2 + 1, first_sent_at = coalesce(first_sent_at, $3), amount = $4,
             currency = $5, claimed_until = now() + $6::bigint * interval '1 second'
         where id = $1 and attempts = $2 and settled_at is null",
        late.id,
        late.attempts,
        instant(now),
        amount,
        currency,
        CLAIM
    )
    .execute(&reporter.db)
    .await
    .context("storing that an invoice item is made")?;
    Ok(ours.rows_affected() > 0)
}

//! Late usage and late credits as invoice items (`LATE_USAGE=credit_or_charge`): on the customer's next invoice.
//!
//! What it promises: one item for each carry. An attempt is in the database before it is made, under a key of its own. After an
//! attempt with an unknown outcome, the item is looked for in Stripe before the next one.

use std::{collections::HashMap, time::Instant};

use anyhow::{Context, Result};
use schema::{AccountId, period::instant};
use serde::{Deserialize, de::IgnoredAny};
use stripe_billing::{
    invoice::{CreateInvoice, CreateInvoicePendingInvoiceItemsBehavior},
    invoice_item::{CreateInvoiceItem, ListInvoiceItem, RetrieveInvoiceItem},
};
use stripe_product::price::RetrievePrice;
use stripe_types::{Currency, RangeBoundsTs, RangeQueryTs};
use time::OffsetDateTime;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Reporter, report::CLAIM, tiers::Price};
use crate::stripe::{StripeError, Write, object::List};

/// The most items that one step makes for a page of accounts.
const ITEMS_MAX: i64 = 100;
/// Metadata of an invoice item: the carry that it bills.
const CARRY: &str = "trendit_carry";
const AGAIN: i64 = 900;

struct Late {
    id: Uuid,
    account: AccountId,
    usage_type: String,
    from_period: i64,
    period_end: i64,
    customer: String,
    units: i64,
    /// Units of the same line that were reported or billed before.
    before: i64,
    price: Option<String>,
    attempts: i32,
    first_sent_at: Option<i64>,
    /// The item, once it exists.
    item: Option<Charged>,
    /// No subscription will produce another invoice.
    is_over: bool,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
    /// `None`: it waits for an invoice.
    invoice: Option<IgnoredAny>,
}

#[derive(Clone)]
enum Charged {
    Item { id: String, amount: i64, currency: String },
    Nothing { why: &'static str },
}

/// Bills the waiting carries of a page of accounts; returns how many were settled.
pub async fn page(reporter: &Reporter, accounts: &[AccountId], now: i64) -> Result<u64> {
    let (mut settled, began) = (0, Instant::now());
    for late in claim(reporter, accounts, now).await.context("claiming late usage")? {
        // Billing them one after the other takes a while.
        let now = now + i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
        match charge(reporter, &late, now).await {
            // Our claim ended before this carry was reached, and another worker has it.
            Ok(None) => {}
            Ok(Some(charged)) => {
                settle(reporter, &late, charged, now)
                    .await
                    .context("storing an invoice item")?;
                settled += 1;
            }
            // Any other failure is the database's.
            Err(failure) => postpone(reporter, &late, failure.downcast::<StripeError>()?, now)
                .await
                .context("postponing an invoice item")?,
        }
    }
    Ok(settled)
}

async fn postpone(reporter: &Reporter, late: &Late, failure: StripeError, now: i64) -> sqlx::Result<()> {
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

/// `None`: another worker has the carry. A [`StripeError`] concerns this carry only, and postpones it.
async fn charge(reporter: &Reporter, late: &Late, now: i64) -> Result<Option<Charged>> {
    let charged = match &late.item {
        Some(made) => Some(made.clone()),
        None => make(reporter, late, now).await?,
    };
    if let Some(Charged::Item { id, .. }) = &charged
        && late.is_over
    {
        invoice(reporter, late, id).await?;
    }
    Ok(charged)
}

/// Makes the item and stores its id.
async fn make(reporter: &Reporter, late: &Late, now: i64) -> Result<Option<Charged>> {
    let nothing = |why| Ok(Some(Charged::Nothing { why }));
    let Some(price) = &late.price else {
        return nothing("the plan has no metered price for it");
    };
    let retrieve = RetrievePrice::new(price.as_str()).expand(vec!["tiers".to_owned()]);
    let price: Price = reporter.stripe.read(&retrieve).await?;
    let Some(amount) = price.difference(late.before, late.units) else {
        return nothing("its price is neither per unit nor graduated: bill it manually");
    };
    if amount == 0 {
        return nothing("it costs nothing by the price's tiers");
    }
    let found = match late.first_sent_at {
        Some(first) => find(reporter, late, first).await?,
        None => None,
    };
    let id = match found {
        Some(id) => id,
        None if !begin(reporter, late, amount, &price.currency, now).await? => return Ok(None),
        None => create(reporter, late, amount, &price.currency).await?,
    };
    sqlx::query!(
        "update meter_carries set invoice_item_id = $2 where id = $1",
        late.id,
        id
    )
    .execute(&reporter.db)
    .await
    .context("storing an invoice item")?;
    Ok(Some(Charged::Item {
        id,
        amount,
        currency: price.currency,
    }))
}

/// Committed before the call: after a crash the item is looked for before another is made, and not while the call may be in progress.
/// `false`: another worker has the carry.
async fn begin(reporter: &Reporter, late: &Late, amount: i64, currency: &str, now: i64) -> Result<bool> {
    let ours = sqlx::query!(
        "update meter_carries set attempts = $2 + 1, first_sent_at = coalesce(first_sent_at, $3), amount = $4,
             currency = $5, claimed_until = $6
         where id = $1 and attempts = $2 and settled_at is null",
        late.id,
        late.attempts,
        instant(now),
        amount,
        currency,
        instant(now + CLAIM)
    )
    .execute(&reporter.db)
    .await
    .context("storing that an invoice item is made")?;
    Ok(ours.rows_affected() > 0)
}

async fn create(reporter: &Reporter, late: &Late, amount: i64, currency: &str) -> Result<String, StripeError> {
    let Ok(currency) = currency.parse::<Currency>();
    let kind = if late.units < 0 { "Late credit" } else { "Late usage" };
    let request = CreateInvoiceItem::new()
        .customer(&late.customer)
        .amount(amount)
        .currency(currency)
        .description(format!("{kind}: {} units of {}", late.units, late.usage_type))
        .period(stripe_billing::invoice_item::Period::new(
            late.period_end,
            late.from_period,
        ))
        .metadata([(CARRY.to_owned(), late.id.to_string())]);
    let key = format!("carry/{}/{}", late.id, late.attempts + 1);
    let made: Item = reporter.stripe.write(&request, Write::Keyed(&key)).await?;
    Ok(made.id)
}

/// Makes an invoice for the item if it is on none: the customer no longer has a subscription that would produce one.
async fn invoice(reporter: &Reporter, late: &Late, item: &str) -> Result<()> {
    let item: Item = reporter.stripe.read(&RetrieveInvoiceItem::new(item)).await?;
    if item.invoice.is_some() {
        return Ok(());
    }
    // Stripe repeats its response to a key, even a failure.
    let attempts = sqlx::query_scalar!(
        "update meter_carries set attempts = attempts + 1 where id = $1 returning attempts",
        late.id
    )
    .fetch_one(&reporter.db)
    .await
    .context("storing that an invoice is made")?;
    let request = CreateInvoice::new()
        .customer(&late.customer)
        .auto_advance(true)
        .pending_invoice_items_behavior(CreateInvoicePendingInvoiceItemsBehavior::Include)
        .metadata([(CARRY.to_owned(), late.id.to_string())]);
    let key = format!("carry/{}/invoice/{attempts}", late.id);
    reporter
        .stripe
        .write::<IgnoredAny>(&request, Write::Keyed(&key))
        .await?;
    Ok(())
}

/// The item that an earlier attempt made.
async fn find(reporter: &Reporter, late: &Late, first_sent_at: i64) -> Result<Option<String>, StripeError> {
    /// Between our clock and Stripe's.
    const CLOCKS: i64 = 3_600;
    let mut after: Option<String> = None;
    loop {
        let mut request = ListInvoiceItem::new().customer(&late.customer).limit(100);
        request = request.created(RangeQueryTs::Bounds(RangeBoundsTs {
            gte: Some(first_sent_at - CLOCKS),
            ..RangeBoundsTs::default()
        }));
        if let Some(after) = &after {
            request = request.starting_after(after);
        }
        let page: List<Item> = reporter.stripe.read(&request).await?;
        let id = late.id.to_string();
        if let Some(item) = page.data.iter().find(|item| item.metadata.get(CARRY) == Some(&id)) {
            return Ok(Some(item.id.clone()));
        }
        after = page.data.last().map(|item| item.id.clone()).filter(|_| page.has_more);
        if after.is_none() {
            return Ok(None);
        }
    }
}

async fn claim(reporter: &Reporter, accounts: &[AccountId], now: i64) -> sqlx::Result<Vec<Late>> {
    let rows = sqlx::query!(
        r#"with claimed as (
               select c.id from meter_carries c
               where c.settled_at is null and c.policy = 'credit_or_charge' and c.account_id = any($1)
                   and (c.claimed_until is null or c.claimed_until <= $2) and c.next_attempt_at <= $2
               order by c.id limit $3 for update skip locked
           )
           update meter_carries c set claimed_until = $4
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
                    and e.policy = 'credit_or_charge' and e.id < c.id) as "earlier!",
               case when p.prices is not null then p.prices ->> c.usage_type else
                   (select i.price_id from subscription_items i join subscriptions s on s.id = i.subscription_id
                    where s.stripe_subscription_id = p.stripe_subscription_id and i.usage_type = c.usage_type
                    limit 1) end as price_id,
               c.invoice_item_id, c.amount, c.currency,
               not exists (select from subscriptions s where s.account_id = c.account_id and s.is_current
                   and s.stripe_subscription_id is not null) as "is_over!""#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(now),
        ITEMS_MAX,
        instant(now + CLAIM)
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
        })
        .collect())
}

async fn settle(reporter: &Reporter, late: &Late, charged: Charged, now: i64) -> sqlx::Result<()> {
    let (item, amount, currency, note) = match charged {
        Charged::Item { id, amount, currency } => (Some(id), amount, Some(currency), None),
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

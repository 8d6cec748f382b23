//! Late usage and late credits as invoice items (`LATE_USAGE=credit_or_charge`): on the customer's next invoice.
//!
//! What it promises: one item a carry. An attempt is in the database before it is made, under a key of its own; one whose
//! outcome is not known is looked for in Stripe before the next.

use std::collections::HashMap;

use anyhow::{Context, Result};
use schema::{AccountId, period::instant};
use serde::Deserialize;
use stripe_billing::invoice_item::{CreateInvoiceItem, ListInvoiceItem};
use stripe_product::price::RetrievePrice;
use stripe_types::{Currency, RangeBoundsTs, RangeQueryTs};
use time::OffsetDateTime;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Reporter, report::CLAIM, tiers::Price};
use crate::stripe::{StripeError, Write, object::List};

/// Items made for one page of accounts in one step, at the most.
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
    /// What Stripe was told or billed before, of the same line.
    before: i64,
    price: Option<String>,
    attempts: i32,
    first_sent_at: Option<i64>,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

enum Charged {
    Item { id: String, amount: i64, currency: String },
    Nothing { why: &'static str },
}

/// Bills what waits, of a page of accounts; tells how many carries were settled.
pub async fn page(reporter: &Reporter, accounts: &[AccountId], now: i64) -> Result<u64> {
    let mut settled = 0;
    for late in claim(reporter, accounts, now).await.context("claiming late usage")? {
        match charge(reporter, &late, now).await? {
            Ok(charged) => {
                settle(reporter, &late, charged, now)
                    .await
                    .context("writing down an invoice item")?;
                settled += 1;
            }
            Err(failure) => {
                let account = late.account;
                match failure.is_passing() {
                    true => {
                        warn!(carry.id = %late.id, account.id = %account, "late usage is not billed yet: {failure}")
                    }
                    false => {
                        error!(carry.id = %late.id, account.id = %account, "late usage cannot be billed: {failure}")
                    }
                }
                // What is known to have had no effect leaves no doubt behind.
                let unclear = matches!(
                    failure,
                    StripeError::Unknown(_) | StripeError::Failed(_) | StripeError::Unreadable(_)
                );
                sqlx::query!(
                    "update meter_carries set error = $2, next_attempt_at = $3, claimed_until = null,
                         first_sent_at = case when $4 then first_sent_at else $5::timestamptz end
                     where id = $1",
                    late.id,
                    failure.to_string(),
                    instant(now + AGAIN),
                    unclear,
                    late.first_sent_at.map(instant)
                )
                .execute(&reporter.db)
                .await
                .context("postponing an invoice item")?;
            }
        }
    }
    Ok(settled)
}

async fn charge(reporter: &Reporter, late: &Late, now: i64) -> Result<Result<Charged, StripeError>> {
    let stripe = &reporter.stripe;
    let Some(price) = &late.price else {
        return Ok(Ok(Charged::Nothing {
            why: "the plan has no metered price for it",
        }));
    };
    let price: Price = match stripe
        .read(&RetrievePrice::new(price.as_str()).expand(vec!["tiers".to_owned()]))
        .await
    {
        Ok(price) => price,
        Err(failure) => return Ok(Err(failure)),
    };
    let Some(amount) = price.difference(late.before, late.units) else {
        return Ok(Ok(Charged::Nothing {
            why: "its price is neither per unit nor graduated: bill it by hand",
        }));
    };
    if amount == 0 {
        return Ok(Ok(Charged::Nothing {
            why: "it costs nothing by the price's tiers",
        }));
    }
    let item = |id| Charged::Item {
        id,
        amount,
        currency: price.currency.clone(),
    };
    if let Some(first) = late.first_sent_at {
        match find(reporter, late, first).await {
            Ok(Some(id)) => return Ok(Ok(item(id))),
            Ok(None) => {}
            Err(failure) => return Ok(Err(failure)),
        }
    }
    // Committed before the call: whoever comes after a crash looks for the item before it makes one.
    sqlx::query!(
        "update meter_carries set attempts = $2, first_sent_at = coalesce(first_sent_at, $3), amount = $4, currency = $5
         where id = $1",
        late.id,
        late.attempts + 1,
        instant(now),
        amount,
        price.currency
    )
    .execute(&reporter.db)
    .await
    .context("writing down that an invoice item is made")?;
    let Ok(currency) = price.currency.parse::<Currency>();
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
    Ok(stripe
        .write::<Item>(&request, Write::Keyed(&key))
        .await
        .map(|made| item(made.id)))
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
               (select i.price_id from subscription_items i join subscriptions s on s.id = i.subscription_id
                where s.stripe_subscription_id = p.stripe_subscription_id and i.usage_type = c.usage_type
                limit 1) as price_id"#,
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

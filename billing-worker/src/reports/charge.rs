//! Late usage and late credits as invoice items: on the customer's next invoice, or on one of their own if none follows. Units that
//! still wait for a next period are only priced, so that it is known how much money is open.
//!
//! It guarantees one item for each carry. An attempt is in the database before it is made, under a key of its own. After an
//! attempt with an unknown outcome, the item is looked for in Stripe before the next attempt.

mod late;

use std::{collections::HashMap, time::Instant};

use anyhow::{Context, Result};
use schema::AccountId;
use serde::{Deserialize, de::IgnoredAny};
use stripe_billing::{
    invoice::{CreateInvoice, CreateInvoicePendingInvoiceItemsBehavior},
    invoice_item::{CreateInvoiceItem, ListInvoiceItem, RetrieveInvoiceItem},
};
use stripe_product::price::RetrievePrice;
use stripe_types::{Currency, RangeBoundsTs, RangeQueryTs};

use self::late::{Charged, Late, begin, claim, postpone, priced, settle};
use super::{Reporter, tiers::Price};
use crate::stripe::{StripeError, Write, names, object::List};

#[derive(Deserialize)]
struct Item {
    id: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
    /// `None`: it waits for an invoice.
    invoice: Option<IgnoredAny>,
}

/// Bills the waiting carries of a page of accounts; returns how many were settled.
pub async fn page(reporter: &Reporter, accounts: &[AccountId], now: i64) -> Result<u64> {
    let (mut settled, began) = (0, Instant::now());
    for late in claim(reporter, accounts, now).await.context("claiming late usage")? {
        // Billing them one after the other takes a while.
        let now = now + i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
        match charge(&reporter.of(late.account), &late, now).await {
            Ok(Some(worth)) if late.waits => priced(reporter, &late, worth).await.context("pricing late usage")?,
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
    if late.is_trial {
        return nothing("usage of a trial is free");
    }
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
    if late.waits {
        let currency = price.currency;
        return Ok(Some(Charged::Worth { amount, currency }));
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
        .metadata([
            (names::META_CARRY.to_owned(), late.id.to_string()),
            (names::META_USAGE_TYPE.to_owned(), late.usage_type.clone()),
        ]);
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
        .metadata([(names::META_CARRY.to_owned(), late.id.to_string())]);
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
        if let Some(item) = page
            .data
            .iter()
            .find(|item| item.metadata.get(names::META_CARRY) == Some(&id))
        {
            return Ok(Some(item.id.clone()));
        }
        after = page.data.last().map(|item| item.id.clone()).filter(|_| page.has_more);
        if after.is_none() {
            return Ok(None);
        }
    }
}

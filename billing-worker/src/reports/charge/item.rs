//! Invoice items for late usage.

use std::collections::HashMap;

use anyhow::{Context, Result};
use protocol::reports::period::BilledBy;
use serde::{Deserialize, de::IgnoredAny};
use stripe_billing::{
    invoice::{CreateInvoice, CreateInvoiceAutomaticTax, CreateInvoicePendingInvoiceItemsBehavior},
    invoice_item::{CreateInvoiceItem, ListInvoiceItem, RetrieveInvoiceItem},
};
use stripe_types::{Currency, RangeBoundsTs, RangeQueryTs};

use super::late::Late;
use crate::{
    reports::Reporter,
    stripe::{
        StripeError, Write, names,
        object::{List, Reference},
    },
};

#[derive(Deserialize)]
struct Item {
    id: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
    /// `None`: it waits for an invoice.
    invoice: Option<Reference>,
}

/// Stripe's own type takes any text.
fn stripe_currency(text: &str) -> Currency {
    let Ok(currency) = text.parse();
    currency
}

pub(super) async fn create(
    reporter: &Reporter,
    late: &Late,
    amount: i64,
    currency: &str,
) -> Result<String, StripeError> {
    let request = CreateInvoiceItem::new()
        .customer(&late.customer)
        .amount(amount)
        .currency(stripe_currency(currency))
        .description(match late.billed_by {
            BilledBy::Invoice => format!("Late usage: {} units of {}", late.units, late.usage_type),
            BilledBy::Charge => format!("Usage: {} units of {}", late.units, late.usage_type),
        })
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

/// Makes an invoice for the item if it is on none: no subscription of the customer will produce one, or only in a year.
pub(super) async fn invoice(reporter: &Reporter, late: &Late, item: &str) -> Result<()> {
    if invoice_of(reporter, item).await?.is_some() {
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
    let mut request = CreateInvoice::new()
        .customer(&late.customer)
        .auto_advance(true)
        .currency(stripe_currency(&late.currency))
        .pending_invoice_items_behavior(CreateInvoicePendingInvoiceItemsBehavior::Include)
        .metadata([
            (names::META_CARRY.to_owned(), late.id.to_string()),
            (names::META_SUBSCRIPTION.to_owned(), late.subscription.clone()),
        ]);
    if reporter.stripe.automatic_tax() {
        request = request.automatic_tax(CreateInvoiceAutomaticTax::new(true));
    }
    let key = format!("carry/{}/invoice/{attempts}", late.id);
    reporter
        .stripe
        .write::<IgnoredAny>(&request, Write::Keyed(&key))
        .await?;
    Ok(())
}

/// The invoice that the item is on. `None`: it waits for one.
pub(super) async fn invoice_of(reporter: &Reporter, item: &str) -> Result<Option<String>, StripeError> {
    let item: Item = reporter.stripe.read(&RetrieveInvoiceItem::new(item)).await?;
    Ok(item.invoice.map(|invoice| invoice.id().to_owned()))
}

/// The item that an earlier attempt made.
pub(super) async fn find(reporter: &Reporter, late: &Late, first_sent_at: i64) -> Result<Option<String>, StripeError> {
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

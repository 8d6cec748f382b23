//! Reads invoices in Stripe. The caller holds the account's lease until they are stored.

use std::collections::HashSet;

use schema::AccountId;
use stripe_billing::{
    invoice::{ListInvoice, RetrieveInvoice},
    invoice_line_item::ListInvoiceInvoiceLineItem,
};
use stripe_types::{RangeBoundsTs, RangeQueryTs};

use super::known::{Known, known};
use crate::{
    error::Error,
    stripe::{
        Stripe, StripeError,
        object::{Invoice, InvoiceLine, List, invoice_line::LinePeriod},
    },
    subscriptions::billing::Billing,
};

/// How many invoices are read at once and stored in one transaction.
pub const READ_MAX: usize = 20;
/// Pages of a hundred lines. Stripe allows 250 invoice items on an invoice, and 20 prices in a subscription, each with its tiers.
const LINE_PAGES_MAX: usize = 10;

/// The invoices to read.
#[derive(Debug, Default)]
pub struct Wanted {
    /// These were just read. Only their lines may be missing.
    pub read: Vec<Invoice>,
    /// These may have changed.
    pub named: Vec<String>,
    /// These are read unless their row is settled.
    pub latest: Vec<String>,
}

/// Invoices as Stripe has them now.
#[derive(Debug, Default)]
pub struct FetchedInvoices {
    pub invoices: Vec<FetchedInvoice>,
    /// Drafts that were deleted.
    pub gone: Vec<String>,
}

#[derive(Debug)]
pub struct FetchedInvoice {
    pub invoice: Invoice,
    pub(super) lines: Lines,
}

#[derive(Debug)]
pub(super) enum Lines {
    Read(Vec<InvoiceLine>),
    /// The rows have them: the lines of a finalized invoice do not change. The time that they are for.
    Stored(LinePeriod),
}

/// Reads the wanted invoices of a customer; those of others are left out.
pub async fn fetch(
    billing: &Billing,
    account: AccountId,
    customer: &str,
    wanted: Wanted,
) -> Result<FetchedInvoices, Error> {
    let stripe = billing.stripe()?;
    let Wanted { read, named, latest } = wanted;
    let read_ids = read.iter().map(|invoice| invoice.id.clone());
    let ids: Vec<String> = read_ids.chain(named.iter().chain(&latest).cloned()).collect();
    let known = known(&billing.admin.db, account, &ids).await?;
    let mut fetched = FetchedInvoices::default();
    let mut seen = HashSet::new();
    for invoice in read {
        if seen.insert(invoice.id.clone()) {
            fetched.add(stripe, customer, invoice, &known).await?;
        }
    }
    let is_settled = |id: &String| known.get(id).is_some_and(|known| known.is_settled);
    let latest = latest.into_iter().filter(|id| !is_settled(id)).take(READ_MAX);
    for id in named.into_iter().chain(latest) {
        if !seen.insert(id.clone()) {
            continue;
        }
        match invoice(stripe, &id).await {
            Ok(invoice) => fetched.add(stripe, customer, invoice, &known).await?,
            Err(error) if error.is_missing() => fetched.gone.push(id),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(fetched)
}

impl FetchedInvoices {
    async fn add(
        &mut self,
        stripe: &Stripe,
        customer: &str,
        invoice: Invoice,
        known: &Known,
    ) -> Result<(), StripeError> {
        if invoice.customer.as_ref().map(|of| of.id()) != Some(customer) {
            return Ok(());
        }
        let stored = known.get(&invoice.id).and_then(|known| known.final_lines);
        let lines = match stored {
            Some(period) => Lines::Stored(period),
            None => Lines::Read(lines(stripe, &invoice.id).await?),
        };
        self.invoices.push(FetchedInvoice { invoice, lines });
        Ok(())
    }
}

/// One invoice.
pub async fn invoice(stripe: &Stripe, id: &str) -> Result<Invoice, StripeError> {
    stripe.read(&RetrieveInvoice::new(id)).await
}

/// One invoice with its payment. A list cannot have it: that is one level too deep.
pub async fn with_payment(stripe: &Stripe, id: &str) -> Result<Invoice, StripeError> {
    let retrieve = RetrieveInvoice::new(id).expand(vec![Invoice::PAYMENT.to_owned()]);
    stripe.read(&retrieve).await
}

/// The invoices that a subscription made at the end of a period.
pub async fn of_period(stripe: &Stripe, subscription: &str, end: i64) -> Result<Vec<Invoice>, StripeError> {
    /// Stripe makes the invoice at the end of the period, or a little later.
    const MADE_WITHIN: i64 = 24 * 3_600;
    let list = ListInvoice::new()
        .subscription(subscription)
        .created(RangeQueryTs::Bounds(RangeBoundsTs {
            gte: Some(end - 60),
            lte: Some(end + MADE_WITHIN),
            ..Default::default()
        }))
        .limit(100);
    let invoices: List<Invoice> = stripe.read(&list).await?;
    Ok(invoices.data)
}

/// All lines of an invoice with their prices, up to [`LINE_PAGES_MAX`] pages.
pub async fn lines(stripe: &Stripe, invoice: &str) -> Result<Vec<InvoiceLine>, StripeError> {
    let page = |after: Option<String>| {
        // Four levels: Stripe expands no more. So the lines are not read together with the invoice.
        let list = ListInvoiceInvoiceLineItem::new(invoice)
            .limit(100)
            .expand(vec!["data.pricing.price_details.price".to_owned()]);
        match after {
            Some(after) => list.starting_after(after),
            None => list,
        }
    };
    stripe.pages(LINE_PAGES_MAX, page, |line: &InvoiceLine| &line.id).await
}

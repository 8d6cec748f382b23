//! An account's invoices. [`list`] and [`find`] are the only readers: they ask Stripe, and nothing else here knows where invoices
//! come from. What their lines mean is in [`shown`].

mod shown;

use schema::AccountId;
use serde::Serialize;
use stripe_billing::{
    invoice::{ListInvoice, RetrieveInvoice},
    invoice_line_item::ListInvoiceInvoiceLineItem,
};

pub use self::shown::{InvoiceDetails, InvoiceSummary};
use super::billing::Billing;
use crate::{
    accounts::customers,
    error::Error,
    stripe::{
        Class, Stripe, StripeError,
        object::{Invoice, InvoiceLine, List},
    },
};

/// Pages of a hundred lines. Stripe allows 250 invoice items on an invoice, and 20 prices in a subscription, each with its tiers.
const LINE_PAGES_MAX: usize = 10;

#[derive(Clone, Debug, Serialize)]
pub struct InvoicePage {
    items: Vec<InvoiceSummary>,
    /// There are more invoices after this one.
    next: Option<String>,
}

/// The account's invoices after the given one, newest first. An account without a customer in Stripe has none. `None`: the
/// account has no invoice `after`.
pub async fn list(
    billing: &Billing,
    account: AccountId,
    limit: i64,
    after: Option<&str>,
) -> Result<Option<InvoicePage>, Error> {
    if after.is_some_and(|after| !is_id(after)) {
        return Ok(None);
    }
    let billing = &viewing(billing, account);
    let stripe = billing.stripe()?;
    let mut page = InvoicePage {
        items: Vec::new(),
        next: None,
    };
    let Some(customer) = customers::find(&billing.admin.db, account, stripe.is_live()).await? else {
        return Ok(Some(page));
    };
    let mut request = ListInvoice::new().customer(customer).limit(limit);
    if let Some(after) = after {
        request = request.starting_after(after);
    }
    let found: List<Invoice> = match stripe.read(&request).await {
        Ok(found) => found,
        Err(error) if error.is_missing() && after.is_some() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    page.next = found
        .data
        .last()
        .filter(|_| found.has_more)
        .map(|invoice| invoice.id.clone());
    for mut invoice in found.data {
        let lines = match invoice.lines.take() {
            Some(lines) if !lines.has_more => lines.data,
            _ => lines(stripe, &invoice.id, Prices::Ids).await?,
        };
        page.items.push(InvoiceSummary::of(invoice, &lines));
    }
    Ok(Some(page))
}

/// One of the account's invoices with its lines. An invoice of another account is as unknown as one that does not exist.
pub async fn find(billing: &Billing, account: AccountId, id: &str) -> Result<InvoiceDetails, Error> {
    let billing = &viewing(billing, account);
    let stripe = billing.stripe()?;
    let customer = customers::find(&billing.admin.db, account, stripe.is_live()).await?;
    let customer = customer.filter(|_| is_id(id)).ok_or(Error::UnknownInvoice)?;
    let invoice: Invoice = match stripe.read(&RetrieveInvoice::new(id)).await {
        Ok(invoice) => invoice,
        Err(error) if error.is_missing() => return Err(Error::UnknownInvoice),
        Err(error) => return Err(error.into()),
    };
    if invoice.customer.as_ref().map(|of| of.id()) != Some(customer.as_str()) {
        return Err(Error::UnknownInvoice);
    }
    let lines = lines(stripe, id, Prices::Expanded).await?;
    Ok(InvoiceDetails::of(invoice, lines))
}

/// Nothing is changed, so these calls must not delay a change.
fn viewing(billing: &Billing, account: AccountId) -> Billing {
    billing.in_class(Class::View).of(account)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prices {
    Ids,
    Expanded,
}

/// All lines of an invoice, up to [`LINE_PAGES_MAX`] pages.
async fn lines(stripe: &Stripe, invoice: &str, prices: Prices) -> Result<Vec<InvoiceLine>, StripeError> {
    let page = |after: Option<String>| {
        let mut list = ListInvoiceInvoiceLineItem::new(invoice).limit(100);
        if prices == Prices::Expanded {
            // Four levels: Stripe expands no more. So the lines are not read together with the invoice.
            list = list.expand(vec!["data.pricing.price_details.price".to_owned()]);
        }
        match after {
            Some(after) => list.starting_after(after),
            None => list,
        }
    };
    stripe.pages(LINE_PAGES_MAX, page, |line: &InvoiceLine| &line.id).await
}

/// Anything else cannot be the id of an invoice, and does not belong in a URL of Stripe.
fn is_id(text: &str) -> bool {
    let rest = text.strip_prefix("in_");
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

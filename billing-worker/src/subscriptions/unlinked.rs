//! Customers in Stripe who pay for a plan and belong to no account here: nobody gets what they pay for. An operator links them.

use schema::Catalogue;
use serde::Deserialize;
use stripe_billing::{InvoiceStatus, invoice::ListInvoice};
use stripe_core::customer::RetrieveCustomer;
use tracing::error;

use super::{billing::Billing, listing};
use crate::{
    accounts::customers,
    error::Error,
    findings::{
        finding::{Finding, FindingKind},
        repository as findings,
    },
    stripe::{
        Stripe, StripeError, names,
        object::{Customer, List, invoice_line::LinePeriod},
    },
};

/// How many of the latest paid invoices are looked at.
const INVOICES: i64 = 10;
/// Maximum number of findings that one comparison looks at again.
const AGAIN_MAX: i64 = 1_000;

#[derive(Deserialize)]
struct PaidInvoice {
    id: String,
    lines: List<PaidLine>,
}

#[derive(Deserialize)]
struct PaidLine {
    period: LinePeriod,
    pricing: Option<Pricing>,
}

#[derive(Deserialize)]
struct Pricing {
    price_details: Option<PriceDetails>,
}

#[derive(Deserialize)]
struct PriceDetails {
    product: Option<String>,
}

/// Whether an event of this type may say that its customer begins or ends to pay.
pub fn is_of_payer(kind: &str) -> bool {
    matches!(kind, "invoice.paid" | "customer.deleted") || kind.starts_with("customer.subscription.")
}

/// Opens a finding if this customer, who belongs to no account, pays for a plan of ours. Otherwise resolves it.
pub async fn look(billing: &Billing, customer: &str) -> Result<(), Error> {
    let stripe = billing.stripe()?;
    let paid = match paid(stripe, &billing.admin.catalogue, customer, billing.clock.now_s()).await {
        Err(error) if error.is_missing() => None,
        Ok(Some(_)) if is_ignored(stripe, customer).await? => None,
        paid => paid?,
    };
    let mut tx = billing.admin.db.begin().await?;
    let is_linked = customers::account_of(&mut *tx, customer, stripe.is_live())
        .await?
        .is_some();
    let finding = paid.filter(|_| !is_linked).map(|paid| Finding {
        kind: FindingKind::UnlinkedPayer,
        subject: customer.to_owned(),
        text: format!("the customer {customer} pays for {paid}, and belongs to no account"),
    });
    let is_new = match &finding {
        Some(finding) => findings::open(&mut tx, None, finding).await?,
        None => {
            findings::resolve(&mut tx, FindingKind::UnlinkedPayer, customer).await?;
            false
        }
    };
    tx.commit().await?;
    if let Some(finding) = finding.filter(|_| is_new) {
        let (kind, text, remedy) = (finding.kind.as_str(), &finding.text, finding.remedy());
        error!(
            customer.id = customer,
            finding = kind,
            "a customer needs attention: {text}: {remedy}"
        );
    }
    Ok(())
}

/// Whether an operator says that the customer needs no account.
async fn is_ignored(stripe: &Stripe, customer: &str) -> Result<bool, StripeError> {
    let customer: Customer = stripe.read(&RetrieveCustomer::new(customer)).await?;
    Ok(names::is_ignored(&customer.metadata))
}

/// Looks again at all customers with an open finding.
pub async fn look_again(billing: &Billing) -> Result<(), Error> {
    for customer in findings::subjects(&billing.admin.db, FindingKind::UnlinkedPayer, AGAIN_MAX).await? {
        look(billing, &customer).await?;
    }
    Ok(())
}

/// The subscription to a plan that the customer has, or else the invoice with which the customer paid for a plan until later than
/// now.
async fn paid(stripe: &Stripe, catalogue: &Catalogue, customer: &str, now: i64) -> Result<Option<String>, StripeError> {
    let subscriptions = listing::all(stripe, customer).await?;
    if let Some(current) = listing::current(subscriptions.iter().filter(|one| !one.is_ignored())) {
        return Ok(Some(format!("the subscription {}", current.id)));
    }
    if subscriptions.iter().any(|one| one.is_ignored()) {
        return Ok(None);
    }
    let list = ListInvoice::new()
        .customer(customer)
        .status(InvoiceStatus::Paid)
        .limit(INVOICES);
    let invoices: List<PaidInvoice> = stripe.read(&list).await?;
    let is_of_plan = |line: &PaidLine| {
        let price = line.pricing.as_ref().and_then(|pricing| pricing.price_details.as_ref());
        let product = price.and_then(|price| price.product.as_deref());
        let plan = product.and_then(names::plan_of_product);
        line.period.end > now && plan.is_some_and(|plan| catalogue.plan(plan).is_some())
    };
    let invoice = invoices
        .data
        .into_iter()
        .find(|invoice| invoice.lines.data.iter().any(is_of_plan));
    Ok(invoice.map(|invoice| format!("a plan with the invoice {}", invoice.id)))
}

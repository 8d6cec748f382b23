//! Invoices, credit notes and changes of the balance as Stripe has them now.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use schema::AccountId;
use serde_json::{Value, json};
use stripe_billing::invoice::ListInvoice;
use stripe_types::{RangeBoundsTs, RangeQueryTs};

use super::invoices::{Found, FoundChange, FoundInvoice, FoundLine};
use crate::{
    reports::Reporter,
    stripe::{
        Raw, Stripe, StripeError,
        object::{
            Invoice, InvoiceLine, Reference,
            reversal::{BalanceTransaction, CreditNote},
        },
    },
    subscriptions::invoices::{fetch, kind},
};

/// Pages of a hundred invoices, credit notes or changes of the balance of one customer.
const PAGES_MAX: usize = 10;
const READS_AT_ONCE: usize = 8;
const EARLIER: i64 = 24 * 3_600;

/// The invoices, credit notes and changes of the balance of these customers since a day before `since`.
pub(super) async fn read(
    reporter: &Reporter,
    customers: &BTreeSet<(AccountId, String)>,
    since: i64,
) -> Result<Found, StripeError> {
    let mut found = Found::default();
    let from = since - EARLIER;
    for (account, customer) in customers {
        let stripe = reporter.stripe.of(*account);
        let invoices = invoices(&stripe, customer, from).await?;
        found.invoices.entry(*account).or_default().extend(invoices);
        for note in notes(&stripe, customer, from).await? {
            let credited = if note.status == "void" { Some(0) } else { note.subtotal };
            found.returned.insert(note.id.clone(), note.post_payment_amount);
            found.notes.insert(note.id, credited);
        }
        let changes = balance(&stripe, customer, from).await?;
        found.balance.entry(*account).or_default().extend(changes);
    }
    Ok(found)
}

async fn invoices(stripe: &Stripe, customer: &str, from: i64) -> Result<Vec<FoundInvoice>, StripeError> {
    let page = |after: Option<String>| {
        let created = RangeBoundsTs {
            gte: Some(from),
            ..RangeBoundsTs::default()
        };
        let list = ListInvoice::new()
            .customer(customer)
            .created(RangeQueryTs::Bounds(created))
            .limit(100);
        match after {
            Some(after) => list.starting_after(after),
            None => list,
        }
    };
    let invoices = stripe.pages(PAGES_MAX, page, |invoice: &Invoice| &invoice.id).await?;
    let with_lines = invoices.into_iter().map(async |invoice| {
        let lines = fetch::lines(stripe, &invoice.id).await?;
        Ok::<_, StripeError>(FoundInvoice {
            status: FoundInvoice::status_of(invoice.status()),
            is_renewal: FoundInvoice::is_renewal_reason(invoice.billing_reason.as_deref()),
            subscription: invoice.subscription().map(str::to_owned),
            created: invoice.created,
            lines: lines.iter().map(line).collect(),
            id: invoice.id,
        })
    });
    stream::iter(with_lines).buffered(READS_AT_ONCE).try_collect().await
}

fn line(line: &InvoiceLine) -> FoundLine {
    FoundLine {
        kind: kind(line).as_str().to_owned(),
        usage_type: line.usage_type().map(str::to_owned),
        price: line.price_id().map(str::to_owned),
        quantity: line.quantity.unwrap_or(0),
        amount: line.amount,
        from: line.period.start,
        to: line.period.end,
    }
}

async fn notes(stripe: &Stripe, customer: &str, from: i64) -> Result<Vec<CreditNote>, StripeError> {
    let page = |after: Option<String>| {
        let query = json!({ "customer": customer, "limit": 100, "created": { "gte": from } });
        Raw::get("/credit_notes", paged(query, after))
    };
    stripe.pages(PAGES_MAX, page, |note: &CreditNote| &note.id).await
}

async fn balance(stripe: &Stripe, customer: &str, from: i64) -> Result<Vec<FoundChange>, StripeError> {
    let path = format!("/customers/{customer}/balance_transactions");
    let page = |after: Option<String>| {
        let query = json!({ "limit": 100, "created": { "gte": from } });
        Raw::get(&path, paged(query, after))
    };
    let changes = stripe
        .pages(PAGES_MAX, page, |change: &BalanceTransaction| &change.id)
        .await?;
    let changes = changes.into_iter().map(|change| FoundChange {
        amount: change.amount,
        note: change.credit_note.as_ref().map(Reference::id).map(str::to_owned),
        is_adjustment: change.kind == "adjustment",
        created: change.created,
        id: change.id,
    });
    Ok(changes.collect())
}

fn paged(mut query: Value, after: Option<String>) -> Value {
    if let Some(after) = after {
        query["starting_after"] = after.into();
    }
    query
}

//! `GET /billing/invoices`: the account's invoices in Stripe, newest first.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use schema::period::instant;
use serde::{Deserialize, Serialize};
use stripe_billing::invoice::ListInvoice;
use time::OffsetDateTime;

use super::{PublicApi, authenticate::Caller};
use crate::{
    accounts::customers,
    error::Error,
    http::query::malformed,
    stripe::object::{self, List},
};

const LIMIT: u16 = 20;
/// Stripe's limit.
const LIMIT_MAX: u16 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageOfInvoices {
    limit: Option<u16>,
    /// Continue after this invoice.
    after: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Invoices {
    items: Vec<Invoice>,
    /// There are more invoices after this one.
    next: Option<String>,
}

#[derive(Serialize)]
struct Invoice {
    id: String,
    number: Option<String>,
    status: Option<String>,
    currency: String,
    total_cents: i64,
    amount_due_cents: i64,
    amount_paid_cents: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
    hosted_invoice_url: Option<String>,
    invoice_pdf: Option<String>,
}

pub(super) async fn list(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    page: Result<Query<PageOfInvoices>, QueryRejection>,
) -> Result<Json<Invoices>, Error> {
    let Query(page) = page.map_err(malformed)?;
    let limit = page.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::BadValue {
            field: "limit",
            rule: format!("must be from 1 to {LIMIT_MAX}"),
        });
    }
    if page.after.as_deref().is_some_and(|after| !is_invoice(after)) {
        return Err(no_such_page());
    }
    let stripe = api.billing.stripe()?;
    let Some(customer) = customers::find(&api.billing.admin.db, account, stripe.is_live()).await? else {
        return Ok(Json(Invoices {
            items: Vec::new(),
            next: None,
        }));
    };
    let mut list = ListInvoice::new().customer(customer).limit(i64::from(limit));
    if let Some(after) = &page.after {
        list = list.starting_after(after);
    }
    let found: List<object::Invoice> = match stripe.read(&list).await {
        Ok(found) => found,
        Err(error) if error.is_missing() && page.after.is_some() => return Err(no_such_page()),
        Err(error) => return Err(error.into()),
    };
    let next = found
        .data
        .last()
        .filter(|_| found.has_more)
        .map(|invoice| invoice.id.clone());
    Ok(Json(Invoices {
        items: found.data.into_iter().map(Invoice::of).collect(),
        next,
    }))
}

fn is_invoice(id: &str) -> bool {
    let rest = id.strip_prefix("in_");
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn no_such_page() -> Error {
    Error::BadValue {
        field: "after",
        rule: "must be the id of one of the account's invoices, such as the value of `next`".to_owned(),
    }
}

impl Invoice {
    fn of(invoice: object::Invoice) -> Self {
        Self {
            id: invoice.id,
            number: invoice.number,
            status: invoice.status,
            currency: invoice.currency,
            total_cents: invoice.total,
            amount_due_cents: invoice.amount_due,
            amount_paid_cents: invoice.amount_paid,
            created_at: instant(invoice.created),
            period_start: instant(invoice.period_start),
            period_end: instant(invoice.period_end),
            hosted_invoice_url: invoice.hosted_invoice_url,
            invoice_pdf: invoice.invoice_pdf,
        }
    }
}

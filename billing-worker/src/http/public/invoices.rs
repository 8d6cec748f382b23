//! `GET /billing/invoices`: the account's invoices in Stripe, newest first.

use axum::{Json, extract::State};
use problem::{json::Integer, shown};
use schema::period::instant;
use serde::{Deserialize, Serialize};
use stripe_billing::invoice::ListInvoice;
use time::OffsetDateTime;

use super::{PublicApi, authenticate::Caller};
use crate::{
    accounts::customers,
    error::Error,
    http::query::Parameters,
    stripe::object::{self, List},
};

const LIMIT: i64 = 20;
/// Stripe's limit.
const LIMIT_MAX: i64 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageOfInvoices {
    limit: Option<Integer<1, LIMIT_MAX>>,
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
    Parameters(page): Parameters<PageOfInvoices>,
) -> Result<Json<Invoices>, Error> {
    let limit = page.limit.map_or(LIMIT, Integer::get);
    if let Some(after) = page.after.as_deref().filter(|after| !is_invoice(after)) {
        return Err(no_such_page(after));
    }
    let stripe = api.billing.stripe()?;
    let Some(customer) = customers::find(&api.billing.admin.db, account, stripe.is_live()).await? else {
        return Ok(Json(Invoices {
            items: Vec::new(),
            next: None,
        }));
    };
    let mut list = ListInvoice::new().customer(customer).limit(limit);
    if let Some(after) = &page.after {
        list = list.starting_after(after);
    }
    let found: List<object::Invoice> = match stripe.read(&list).await {
        Ok(found) => found,
        Err(error) => {
            return Err(match &page.after {
                Some(after) if error.is_missing() => no_such_page(after),
                _ => error.into(),
            });
        }
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

fn no_such_page(after: &str) -> Error {
    let rule = "must be the id of one of the account's invoices, such as the value of `next`";
    Error::BadValue {
        field: "after",
        rule: format!("{rule}, got \"{}\"", shown(after)),
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

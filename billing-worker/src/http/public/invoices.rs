//! `GET /billing/invoices`: the account's invoices, newest first. `GET /billing/invoices/{id}`: one with its lines.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use serde::Deserialize;

use super::{PublicApi, authenticate::Caller};
use crate::{
    error::Error,
    http::query::malformed,
    subscriptions::invoices::{self, InvoiceDetails, InvoicePage},
};

const LIMIT: u16 = 20;
/// Stripe's limit.
const LIMIT_MAX: u16 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageOfInvoices {
    limit: Option<u16>,
    /// Continue after this invoice.
    after: Option<String>,
}

pub async fn list(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    page: Result<Query<PageOfInvoices>, QueryRejection>,
) -> Result<Json<InvoicePage>, Error> {
    let Query(page) = page.map_err(malformed)?;
    let limit = page.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::BadValue {
            field: "limit",
            rule: format!("must be from 1 to {LIMIT_MAX}"),
        });
    }
    let found = invoices::list(&api.billing, account, limit, page.after.as_deref()).await?;
    found.map(Json).ok_or_else(|| Error::BadValue {
        field: "after",
        rule: "must be the id of one of the account's invoices, such as the value of `next`".to_owned(),
    })
}

pub async fn show(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<InvoiceDetails>, Error> {
    let Path(id) = id.map_err(|_| Error::UnknownInvoice)?;
    Ok(Json(invoices::find(&api.billing, account, &id).await?))
}

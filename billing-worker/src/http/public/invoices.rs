//! `GET /billing/invoices`: the account's invoices, newest first. `GET /billing/invoices/{id}`: one with its lines.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use problem::{json::Integer, shown};
use serde::Deserialize;

use super::{PublicApi, authenticate::Caller};
use crate::{
    error::Error,
    http::query::Parameters,
    subscriptions::invoices::{self, InvoiceDetails, InvoicePage},
};

const LIMIT: i64 = 20;
const LIMIT_MAX: i64 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageOfInvoices {
    limit: Option<Integer<1, LIMIT_MAX>>,
    /// Continue after this invoice.
    after: Option<String>,
}

pub(super) async fn list(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    Parameters(page): Parameters<PageOfInvoices>,
) -> Result<Json<InvoicePage>, Error> {
    let limit = page.limit.map_or(LIMIT, Integer::get);
    let limit = usize::try_from(limit).unwrap_or_default();
    let found = invoices::list(&api.billing, account, limit, page.after.as_deref()).await?;
    found.map(Json).ok_or_else(|| {
        let after = page.after.as_deref().unwrap_or_default();
        let rule = "must be the id of one of the account's invoices, such as the value of `next`";
        Error::BadValue {
            field: "after",
            rule: format!("{rule}, got \"{}\"", shown(after)),
        }
    })
}

pub(super) async fn show(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<InvoiceDetails>, Error> {
    let Path(id) = id.map_err(|_| Error::UnknownInvoice)?;
    Ok(Json(invoices::find(&api.billing, account, &id).await?))
}

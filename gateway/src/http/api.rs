//! The gateway's own API, `/v1`: for services that report their usage themselves, and for proxies that ask before they forward a
//! request.
//!
//! | path | file |
//! |---|---|
//! | `POST /v1/usage` | [`usage`] |
//! | `POST /v1/usage/batch` | [`usage_batch`] |
//! | `POST /v1/check` | [`check`] |
//! | `GET /v1/usage` | [`summary`] |
//! | `/v1/authorize` | [`authorize`] |

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use bytes::Bytes;
use problem::shown;
use schema::{Catalogue, UsageType, period};
use serde::{Deserializer, Serialize};
use serde_json::Value;
use time::format_description::well_known::Rfc3339;

use crate::{
    accounts::key::Key,
    http::{
        auth,
        body::fields,
        gateway::Gateway,
        problem::{Kind, Problem},
    },
    pricing::cost,
};

pub mod authorize;
pub mod check;
mod posted;
mod reported;
pub mod summary;
pub mod usage;
pub mod usage_batch;

async fn authenticate(gateway: &Gateway, headers: &HeaderMap, now_s: i64) -> Result<Arc<Key>, Problem> {
    auth::authenticate(&gateway.accounts, headers, now_s).await
}

fn usage_type(catalogue: &Catalogue, name: &str) -> Result<UsageType, Problem> {
    catalogue.usage_type(name).ok_or_else(|| {
        let known: Vec<_> = catalogue.usage_types().iter().map(|known| known.name()).collect();
        let detail = format!("unknown usage type `{}`; known: {}", shown(name), known.join(", "));
        Problem::new(Kind::UnknownUsageType, detail)
    })
}

/// The field `cost_units` of a body. Its bounds are checked later, after the usage type.
fn read_cost_units<'de, D: Deserializer<'de>>(field: D) -> Result<i64, D::Error> {
    fields::required(field, cost::MUST_BE, Value::as_i64)
}

/// The default of `cost_units`.
fn one() -> i64 {
    1
}

fn json(body: &impl Serialize) -> axum::http::Response<Bytes> {
    let body = serde_json::to_vec(body).expect("strings and numbers are always JSON");
    let mut response = axum::http::Response::new(body.into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Unix seconds as RFC 3339.
fn instant(at_s: i64) -> String {
    period::instant(at_s).format(&Rfc3339).unwrap_or_default()
}

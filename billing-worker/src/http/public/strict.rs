//! Rules for every request. An unknown query parameter is refused, because the client may mean a field of the body (`?preview=true`).
//! No answer is cached.

use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderValue, header::CACHE_CONTROL},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::http::query::Parameters;

/// These routes read their parameters themselves, or are pages that browsers are sent to.
const WITH_PARAMETERS: [&str; 7] = [
    "/billing/create-checkout-session",
    "/billing/subscriptions",
    "/billing/upgrade",
    "/billing/invoices",
    "/billing/success",
    "/billing/cancelled",
    "/billing/returned",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

pub(super) async fn strict(request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if !WITH_PARAMETERS.contains(&parts.uri.path())
        && let Err(refusal) = Parameters::<NoParameters>::from_request_parts(&mut parts, &()).await
    {
        return refusal.into_response();
    }
    let mut response = next.run(Request::from_parts(parts, body)).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

//! Responses that are stored for their `Idempotency-Key`, and replayed.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode},
    response::Response,
};
use bytes::Bytes;

use crate::recording::responses::StoredResponse;

/// Marks a response as the stored one of an earlier request.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The response as it is stored.
pub(super) fn stored(response: &axum::http::Response<Bytes>) -> StoredResponse {
    let headers = response.headers().iter();
    StoredResponse {
        status: response.status().as_u16(),
        headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
        // A copy, because the buffer of the response has room for more bytes.
        body: Bytes::copy_from_slice(response.body()),
    }
}

/// The stored response, with a header that marks it as replayed.
pub(super) fn replayed(stored: StoredResponse) -> Response {
    let mut response = Response::new(Body::from(stored.body));
    *response.status_mut() = StatusCode::from_u16(stored.status).expect("it was the status of a response");
    response.headers_mut().extend(stored.headers);
    response
        .headers_mut()
        .insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    response
}

//! An id as the value of a header.

use axum::http::HeaderValue;
use uuid::Uuid;

pub(super) fn uuid_value(id: Uuid) -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).expect("a UUID is visible ASCII")
}

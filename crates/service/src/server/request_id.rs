//! The id of a request. It is in the header `X-Request-Id` of the response, in `instance` of a problem, in the log, and in the
//! usage event.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::{Uuid, fmt::Hyphenated};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of a client's id, in bytes. A longer id is replaced.
pub const REQUEST_ID_MAX: usize = 128;

/// Returns the client's own id if it sent exactly one valid id, otherwise a new UUID.
pub fn of(headers: &HeaderMap) -> HeaderValue {
    let mut ids = headers.get_all(X_REQUEST_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) if is_request_id(id.as_bytes()) => id.clone(),
        _ => new(),
    }
}

pub fn new() -> HeaderValue {
    let mut text = [0; Hyphenated::LENGTH];
    let id = Uuid::now_v7().hyphenated();
    HeaderValue::from_str(id.encode_lower(&mut text)).expect("a UUID is visible ASCII")
}

/// Whether the text is visible ASCII of a valid length.
pub fn is_request_id(text: &[u8]) -> bool {
    (1..=REQUEST_ID_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sent: &[&str]) -> HeaderValue {
        let line = |id: &&str| (X_REQUEST_ID, HeaderValue::from_str(id).unwrap());
        of(&sent.iter().map(line).collect())
    }

    #[test]
    fn a_valid_id_of_the_client_is_kept() {
        assert_eq!(id(&["order-17"]), "order-17");
        let longest = "x".repeat(REQUEST_ID_MAX);
        assert_eq!(id(&[&longest]), longest.as_str());
    }

    #[test]
    fn any_other_id_is_replaced_by_a_uuid() {
        let long = "x".repeat(REQUEST_ID_MAX + 1);
        for sent in [&[][..], &[""], &["a b"], &["a", "b"], &[&long]] {
            let id = id(sent);
            assert!(Uuid::try_parse(id.to_str().unwrap()).is_ok(), "{sent:?}: {id:?}");
        }
    }
}

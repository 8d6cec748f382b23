//! The problem document of RFC 9457, with the members `error` and `message` for clients that do not know this standard.

use std::fmt::Write;

use serde::Serialize;
use uuid::Uuid;

use crate::{Kind, Members};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// The default address of the API's documentation. The services serve the page there. It is a relative URI with its full path, as
/// RFC 9457 recommends.
pub const TYPE_BASE: &str = "/docs/api.md";

/// The API's documentation, as it is served at [`TYPE_BASE`].
pub const PAGE: &str = include_str!("../../../docs/api.md");

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: String,
    error: &'static str,
    message: &'a str,
    #[serde(flatten)]
    members: Option<&'a Members>,
}

pub(crate) fn document(
    kind: Kind,
    detail: &str,
    members: Option<&Members>,
    type_base: &str,
    request_id: &str,
) -> Vec<u8> {
    let document = Document {
        r#type: format!("{type_base}#{}", kind.error()),
        title: kind.title(),
        status: kind.status().as_u16(),
        detail,
        instance: instance(request_id),
        error: kind.error(),
        message: detail,
        members,
    };
    serde_json::to_vec(&document).expect("strings and numbers are always JSON")
}

/// The URI of one occurrence of a problem: `urn:uuid:<id>` if the request's id is a UUID, as ours are, or else the relative URI
/// `/requests/<id>` for an id that the client chose. Both are only names: RFC 9457 does not require that they can be opened.
pub fn instance(request_id: &str) -> String {
    if request_id.len() == uuid::fmt::Hyphenated::LENGTH && Uuid::try_parse(request_id).is_ok() {
        return format!("urn:uuid:{}", request_id.to_ascii_lowercase());
    }
    let mut uri = "/requests/".to_owned();
    for byte in request_id.bytes() {
        match byte {
            // The unreserved characters of RFC 3986.
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => uri.push(char::from(byte)),
            byte => write!(uri, "%{byte:02X}").expect("writing into a String cannot fail"),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Problem;
    use serde_json::{Value, json};

    #[test]
    fn a_document_has_all_members() {
        let problem = Problem::new(Kind::RateLimitExceeded, "monthly limit reached").with(Members {
            usage_type: Some("api_call"),
            current_usage: Some(Some(98)),
            limit: Some(Some(100)),
            remaining: Some(None),
            upgrade_url: Some("/billing/plans".into()),
            ..Members::default()
        });
        let document: Value = serde_json::from_slice(&problem.body(TYPE_BASE, "request-1")).unwrap();
        assert_eq!(
            document,
            json!({
                "type": "/docs/api.md#rate_limit_exceeded",
                "title": "Monthly limit reached",
                "status": 429,
                "detail": "monthly limit reached",
                "instance": "/requests/request-1",
                "error": "rate_limit_exceeded",
                "message": "monthly limit reached",
                "usage_type": "api_call",
                "current_usage": 98,
                "limit": 100,
                "remaining": null,
                "upgrade_url": "/billing/plans",
            })
        );
        let document = Problem::of(Kind::Internal).body(TYPE_BASE, "");
        let document: Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(document.as_object().unwrap().len(), 7, "{document}");
    }

    #[test]
    fn an_instance_is_a_uri() {
        for (id, uri) in [
            (
                "01A21C0B-af6b-717e-bbf2-56621a502fc5",
                "urn:uuid:01a21c0b-af6b-717e-bbf2-56621a502fc5",
            ),
            ("mine-1", "/requests/mine-1"),
            ("a/b?c#d%e", "/requests/a%2Fb%3Fc%23d%25e"),
        ] {
            assert_eq!(instance(id), uri);
        }
    }
}

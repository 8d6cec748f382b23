//! The `Idempotency-Key` of a request (draft-ietf-httpapi-idempotency-key-header): retries with the same key name the same event
//! of their account.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, Method, Uri};
use schema::{AccountId, EventId};

use crate::http::problem::Problem;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in characters, without its quotes.
pub const LENGTH_MAX: usize = 255;

/// The key, if there is one: a single header of visible ASCII, without a space.
///
/// In the draft it is in quotes (a string of RFC 9651), but many clients send it without quotes: `"order-17"` and `order-17` are one key.
pub fn of(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::invalid("more than one Idempotency-Key")),
        (Some(key), None) => match key.to_str().ok().and_then(unquoted).filter(|key| is_key(key)) {
            Some(key) => Ok(Some(key)),
            None => Err(Problem::invalid(
                "the Idempotency-Key must have 1 to 255 visible ASCII characters, with or without double quotes",
            )),
        },
    }
}

/// The key of one item of a batch. No key has a space in it, so no other request can name the item's event.
pub fn of_item(key: &str, index: usize) -> String {
    format!("{key} {index}")
}

/// The event id of a request that is forwarded or authorized. Another method, path, query or cost with the same key gives
/// another event, so an expensive request cannot pass as a cheap one. The body is not part of the id.
pub fn event_of(account: AccountId, key: &str, method: &Method, uri: &Uri, units: i64) -> EventId {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    // No key has a space in it, and no item's number is a method.
    EventId::of_idempotency_key(account, &format!("{key} {method} {path} {units}"))
}

fn is_key(key: &str) -> bool {
    (1..=LENGTH_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `None`: quotes that are not closed, text behind them, or an invalid escape.
fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Some(text.into());
    };
    let inner = quoted.strip_suffix('"')?;
    if !inner.contains(['"', '\\']) {
        return Some(inner.into());
    }
    let (mut key, mut rest) = (String::with_capacity(inner.len()), inner.chars());
    while let Some(character) = rest.next() {
        key.push(match character {
            '\\' => rest.next().filter(|escaped| matches!(escaped, '"' | '\\'))?,
            '"' => return None,
            other => other,
        });
    }
    Some(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn read(keys: &[&str]) -> Option<Option<String>> {
        let key = |key: &&str| (IDEMPOTENCY_KEY, HeaderValue::from_str(key).unwrap());
        of(&keys.iter().map(key).collect::<HeaderMap>())
            .map(|key| key.map(Cow::into_owned))
            .ok()
    }

    #[test]
    fn a_key_is_one_header_of_visible_ascii() {
        assert_eq!(read(&[]), Some(None));
        assert_eq!(read(&["order-17"]), Some(Some("order-17".into())));
        assert!(read(&[&"k".repeat(255)]).is_some());
        for odd in [&[""] as &[&str], &["a b"], &[&"k".repeat(256)], &["é"], &["a", "a"]] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_key_is_the_same_in_quotes_and_without() {
        assert_eq!(read(&["\"order-17\""]), read(&["order-17"]));
        assert_eq!(read(&[r#""a\"b\\c""#]), read(&[r#"a"b\c"#]));
        assert!(read(&[&format!("\"{}\"", "k".repeat(255))]).is_some());
        for odd in [
            r#""""#,
            r#"""#,
            r#""a"#,
            r#""a"b""#,
            r#""a\""#,
            r#""a\b""#,
            r#""a b""#,
            r#""a";p=1"#,
        ] {
            assert_eq!(read(&[odd]), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn every_key_survives_its_quotes(key in "[!-~]{1,255}") {
            prop_assume!(!key.starts_with('"'));
            let quoted = format!("\"{}\"", key.replace('\\', r"\\").replace('"', "\\\""));
            prop_assert_eq!(read(&[&quoted]), Some(Some(key)));
        }
    }
}

//! The `Idempotency-Key` of a request: retries that carry the same one name the same event.

use http::{HeaderMap, HeaderName};

use crate::problem::Problem;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in characters.
pub const LENGTH_MAX: usize = 255;

/// The key, if there is one: a single header of visible ASCII.
pub fn of(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::invalid("there is more than one Idempotency-Key")),
        (Some(key), None) => match key.to_str() {
            Ok(key) if (1..=LENGTH_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Some(key))
            }
            _ => Err(Problem::invalid(
                "an Idempotency-Key has 1 to 255 visible ASCII characters",
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_key_is_one_header_of_visible_ascii() {
        let read = |keys: &[&str]| {
            let key = |key: &&str| (IDEMPOTENCY_KEY, HeaderValue::from_str(key).unwrap());
            of(&keys.iter().map(key).collect::<HeaderMap>())
                .map(|key| key.map(str::to_owned))
                .ok()
        };
        assert_eq!(read(&[]), Some(None));
        assert_eq!(read(&["order-17"]), Some(Some("order-17".into())));
        assert!(read(&[&"k".repeat(255)]).is_some());
        for odd in [&[""] as &[&str], &["a b"], &[&"k".repeat(256)], &["é"], &["a", "a"]] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }
}

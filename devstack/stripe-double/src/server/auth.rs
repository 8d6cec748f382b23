//! Checks the secret key, which comes as a bearer token or as the user name of basic authentication, as at Stripe.

use http::{HeaderMap, header};

use crate::failure::Failure;

pub(crate) fn check(headers: &HeaderMap, api_key: &str) -> Result<(), Failure> {
    let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
        return Err(Failure::unauthorized(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth \
            (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        ));
    };
    let key = match given.split_once(' ') {
        Some(("Bearer", key)) => key.trim().to_owned(),
        Some(("Basic", encoded)) => decode_base64(encoded).trim_end_matches(':').to_owned(),
        _ => String::new(),
    };
    if key == api_key {
        return Ok(());
    }
    let shown: String = key
        .chars()
        .rev()
        .take(4)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    Err(Failure::unauthorized(&format!("Invalid API Key provided: ****{shown}")))
}

/// Decodes the credentials of `curl -u KEY:`. Invalid base64 gives an empty text, which is no key.
fn decode_base64(encoded: &str) -> String {
    let mut bits = (0_u32, 0);
    let mut bytes = Vec::new();
    for byte in encoded.trim().trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return String::new(),
        };
        bits = (bits.0 << 6 | u32::from(value), bits.1 + 6);
        if bits.1 >= 8 {
            bits.1 -= 8;
            bytes.push((bits.0 >> bits.1).to_le_bytes()[0]);
            bits.0 &= (1 << bits.1) - 1;
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Option<&str>) -> Option<u16> {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        check(&headers, "sk_test_1").err().map(|failure| failure.status)
    }

    #[test]
    fn only_the_key_opens() {
        assert_eq!(status(Some("Bearer sk_test_1")), None);
        assert_eq!(status(Some("Basic c2tfdGVzdF8xOg==")), None, "curl -u sk_test_1:");
        for wrong in [
            None,
            Some("Bearer sk_test_2"),
            Some("sk_test_1"),
            Some("Basic c2tfdGVzdF8yOg=="),
        ] {
            assert_eq!(status(wrong), Some(401), "{wrong:?}");
        }
    }
}

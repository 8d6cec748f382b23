//! Stripe's signature of a webhook: HMAC-SHA256 over `<t>.<body>`, in the header `Stripe-Signature: t=…,v1=…[,v1=…]`.
//! (<https://docs.stripe.com/webhooks#verify-manually>)

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How old a signature may be, and how far ahead of our clock.
pub const TOLERANCE_S: i64 = 300;

/// Maximum number of signatures, and of secrets, that are checked: more than any rotation needs.
const MOST: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the header Stripe-Signature is missing or cannot be read")]
    Unreadable,
    #[error("no signature matches: the endpoint's secret is not in STRIPE_WEBHOOK_SECRETS, or the body was changed")]
    Mismatch,
    #[error("the signature is more than five minutes old or ahead of our clock: it may be a replay")]
    Stale,
}

/// Fails unless one of `secrets` signed `body` within [`TOLERANCE_S`] of `now`.
pub fn verify(header: &str, body: &[u8], secrets: &[String], now: i64) -> Result<(), SignatureError> {
    let mut signed_at = None;
    let mut signatures = Vec::new();
    for pair in header.split(',') {
        match pair.trim().split_once('=') {
            Some(("t", at)) => signed_at = Some(at),
            Some(("v1", signature)) if signatures.len() < MOST => {
                signatures.extend(from_hex(signature));
            }
            // Ignore other schemes: a test endpoint adds v0.
            _ => {}
        }
    }
    // Sign the original text of the timestamp, not the parsed number.
    let signed_text = signed_at.ok_or(SignatureError::Unreadable)?;
    let at: i64 = signed_text.parse().map_err(|_| SignatureError::Unreadable)?;
    if signatures.is_empty() {
        return Err(SignatureError::Unreadable);
    }
    let is_ours = |secret: &String| {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
            return false;
        };
        mac.update(signed_text.as_bytes());
        mac.update(b".");
        mac.update(body);
        // In constant time.
        signatures
            .iter()
            .any(|signature| mac.clone().verify_slice(signature).is_ok())
    };
    if !secrets
        .iter()
        .filter(|secret| !secret.is_empty())
        .take(MOST)
        .any(is_ours)
    {
        return Err(SignatureError::Mismatch);
    }
    match (now - TOLERANCE_S..=now + TOLERANCE_S).contains(&at) {
        true => Ok(()),
        false => Err(SignatureError::Stale),
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_795_395_600;

    fn sign(secret: &str, at: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(at.as_bytes());
        mac.update(b".");
        mac.update(body);
        hex::encode(mac.finalize().into_bytes())
    }

    fn secrets(secrets: &[&str]) -> Vec<String> {
        secrets.iter().map(|secret| (*secret).to_owned()).collect()
    }

    #[test]
    fn any_secret_and_any_signature_of_a_rotation_is_accepted() {
        let body = b"{\"id\": \"evt_1\"}";
        let at = NOW.to_string();
        let (old, new) = (sign("whsec_old", &at, body), sign("whsec_new", &at, body));
        for header in [
            format!("t={at},v1={new}"),
            format!("t={at},v0=00,v1={old},v1={new}"),
            format!("v1={new}, t={at}"),
        ] {
            assert_eq!(
                verify(&header, body, &secrets(&["whsec_a", "whsec_new"]), NOW),
                Ok(()),
                "{header}"
            );
        }
        assert_eq!(
            verify(&format!("t={at},v1={old}"), body, &secrets(&["whsec_new"]), NOW),
            Err(SignatureError::Mismatch)
        );
    }

    #[test]
    fn changed_replayed_and_unsigned_events_are_refused() {
        let body = b"{}";
        let at = NOW.to_string();
        let good = sign("whsec", &at, body);
        let known = secrets(&["whsec"]);
        assert_eq!(
            verify(&format!("t={at},v1={good}"), b"{ }", &known, NOW),
            Err(SignatureError::Mismatch)
        );
        let header = format!("t={at},v1={good}");
        for (now, expected) in [
            (NOW + 300, Ok(())),
            (NOW + 301, Err(SignatureError::Stale)),
            (NOW - 300, Ok(())),
            (NOW - 301, Err(SignatureError::Stale)),
        ] {
            assert_eq!(verify(&header, body, &known, now), expected);
        }
        for header in [
            "",
            "t=,v1=",
            "v1=00",
            &format!("t={at}"),
            &format!("t=soon,v1={good}"),
            &format!("t={at},v1=zz"),
        ] {
            assert_eq!(
                verify(header, body, &known, NOW),
                Err(SignatureError::Unreadable),
                "{header}"
            );
        }
    }

    #[test]
    fn an_empty_secret_verifies_nothing() {
        let at = NOW.to_string();
        let header = format!("t={at},v1={}", sign("", &at, b"{}"));
        assert_eq!(
            verify(&header, b"{}", &secrets(&[""]), NOW),
            Err(SignatureError::Mismatch)
        );
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_and_never_panics(header in "\\PC{0,200}", body: Vec<u8>) {
            prop_assert!(verify(&header, &body, &secrets(&["whsec"]), NOW).is_err());
        }
    }
}

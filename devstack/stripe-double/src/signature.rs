//! The signature of a webhook: HMAC-SHA256 over `<t>.<body>`, one `v1` per secret that is valid.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The value of `Stripe-Signature`.
pub(crate) fn header<'a>(at: i64, body: &[u8], secrets: impl Iterator<Item = &'a str>) -> String {
    let mut header = format!("t={at}");
    for secret in secrets {
        header.push_str(",v1=");
        header.push_str(&sign(at, body, secret));
    }
    header
}

fn sign(at: i64, body: &[u8], secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .expect("any secret is a key, because HMAC hashes one that is too long");
    mac.update(format!("{at}.").as_bytes());
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_secret_signs_time_and_body() {
        // By `openssl dgst -sha256 -hmac whsec_a` over `12345.{"a":1}`.
        let known = "b5a7f361c87454e0dba328afaeab596955f757bf17fe32ea85136b8e15755ffa";
        assert_eq!(sign(12345, b"{\"a\":1}", "whsec_a"), known);
        let header = header(12345, b"{\"a\":1}", ["whsec_a", "whsec_b"].into_iter());
        assert!(header.starts_with(&format!("t=12345,v1={known},v1=")));
    }
}

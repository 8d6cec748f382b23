//! Secrets and signatures of notices, as Standard Webhooks defines them (<https://www.standardwebhooks.com>): a secret is
//! `whsec_` and base64, a signature `v1,` and the base64 of an HMAC-SHA256 over id, timestamp and body.

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::Sha256;

/// A secret that signs the notices of one account. No `Debug`, so that no log can contain it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The specification asks for 24 to 64 bytes.
    const BYTES: usize = 32;

    pub fn generate() -> Self {
        let mut bytes = vec![0; Self::BYTES];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    pub fn from_stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns `whsec_…`, to be shown to the owner only.
    pub fn reveal(&self) -> String {
        format!("whsec_{}", BASE64_STANDARD.encode(&self.0))
    }

    fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Returns the header `webhook-signature`: one signature per secret, so that a receiver with any of the secrets keeps working
/// during a rotation.
pub fn header(secrets: &[Secret], id: &str, timestamp: i64, body: &str) -> String {
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &str = r#"{"test": 2432232314}"#;

    /// A test vector of the specification's own libraries.
    #[test]
    fn the_published_vector_is_signed_as_published() {
        let secret = Secret(BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        assert_eq!(secret.reveal(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(
            header(&[secret], ID, 1_614_265_330, BODY),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn every_secret_signs_and_spaces_separate_the_signatures() {
        let secrets = [Secret::generate(), Secret::generate()];
        let both = header(&secrets, ID, 1, BODY);
        let each: Vec<_> = secrets.iter().map(|secret| secret.sign(ID, 1, BODY)).collect();
        assert_eq!(both.split(' ').collect::<Vec<_>>(), each);
        assert_ne!(each[0], each[1]);
    }

    #[test]
    fn a_signature_covers_id_timestamp_and_body() {
        let secret = Secret::generate();
        let signed = secret.sign("a", 1, "b");
        for (id, timestamp, body) in [("c", 1, "b"), ("a", 2, "b"), ("a", 1, "c")] {
            assert_ne!(secret.sign(id, timestamp, body), signed, "{id} {timestamp} {body}");
        }
    }
}

//! API keys: `tr_live_<id><secret><checksum>`.
//!
//! | part | characters (base62) | meaning |
//! |---|---|---|
//! | prefix | `tr_live_` | recognised by secret scanners |
//! | id | 22 | the [`KeyId`], public: used to look the key up |
//! | secret | 32 | 190 random bits |
//! | checksum | 6 | CRC-32 of all characters before it: a mistyped key is refused without a look-up |
//!
//! PostgreSQL stores the id and [`ApiKey::hash`]. The key itself is shown once, when it is created.

use std::fmt;

use rand::RngExt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::{KeyId, base62};

pub const PREFIX: &str = "tr_live_";
const ID: usize = 22;
const SECRET: usize = 32;
const CHECKSUM: usize = 6;
/// Length of every key in characters.
pub const LENGTH: usize = PREFIX.len() + ID + SECRET + CHECKSUM;

/// A whole key. `Debug` shows only the id, so that no log shows the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: KeyId,
    text: String,
}

/// SHA-256 of the whole key text. A key has 190 random bits, so a slow hash would add nothing.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    #[error("an API key starts with {PREFIX} and has {LENGTH} characters")]
    Form,
    #[error("the API key's checksum does not match: it was mistyped or cut")]
    Checksum,
}

impl ApiKey {
    /// A new key with a random id and secret.
    pub fn generate() -> Self {
        let id = KeyId(Uuid::new_v4());
        let mut rng = rand::rng();
        let secret: [u128; 2] = [rng.random(), rng.random()];
        // 16 digits hold 95 bits. The rest of each number is cut off.
        let half = |n: u128| base62::encode(n % 62u128.pow(16), SECRET / 2);
        let mut text = format!(
            "{PREFIX}{}{}{}",
            base62::encode(id.0.as_u128(), ID),
            half(secret[0]),
            half(secret[1])
        );
        text.push_str(&checksum(&text));
        Self { id, text }
    }

    /// Parses a key from an `Authorization` header. Does no look-up.
    pub fn parse(text: &str) -> Result<Self, ParseKeyError> {
        let (id, _) = split(text)?;
        Ok(Self {
            id,
            text: text.to_owned(),
        })
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The whole key: shown to its owner once, never stored, never logged.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    pub fn hash(&self) -> KeyHash {
        hash(&self.text)
    }
}

/// Id and hash of a key text, without a copy of it, for the hot path.
pub fn identify(text: &str) -> Result<(KeyId, KeyHash), ParseKeyError> {
    let (id, _) = split(text)?;
    Ok((id, hash(text)))
}

/// Whether a URL contains a key, or so much of one that it shows more than the public id. A URL with percent-encoded characters is
/// searched decoded, too.
pub fn is_in_url(url: &str) -> bool {
    is_in(url) || (url.contains('%') && is_in(&percent_decoded(url)))
}

fn is_in(text: &str) -> bool {
    // `match_indices` searches several bytes at once, so a text without the prefix is read once.
    text.match_indices(PREFIX).any(|(at, prefix)| {
        let after = text[at + prefix.len()..].bytes();
        after.take_while(u8::is_ascii_alphanumeric).nth(ID).is_some()
    })
}

/// Decodes once. A `%` without two hexadecimal digits stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let mut escaped = [0];
        let is_escape = *byte == b'%'
            && after
                .first_chunk::<2>()
                .is_some_and(|digits| hex::decode_to_slice(digits, &mut escaped).is_ok());
        decoded.push(if is_escape { escaped[0] } else { *byte });
        rest = if is_escape { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

impl KeyHash {
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for KeyHash {
    /// Compares in constant time, so that the duration reveals nothing about the stored hash.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.id)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

fn split(text: &str) -> Result<(KeyId, &str), ParseKeyError> {
    if text.len() != LENGTH || !text.is_ascii() || !text.starts_with(PREFIX) {
        return Err(ParseKeyError::Form);
    }
    let (body, sum) = text.split_at(LENGTH - CHECKSUM);
    if checksum(body) != sum {
        return Err(ParseKeyError::Checksum);
    }
    let id = base62::decode(&body.as_bytes()[PREFIX.len()..PREFIX.len() + ID]).ok_or(ParseKeyError::Form)?;
    Ok((KeyId(Uuid::from_u128(id)), body))
}

fn checksum(text: &str) -> String {
    base62::encode(u128::from(crc32fast::hash(text.as_bytes())), CHECKSUM)
}

fn hash(text: &str) -> KeyHash {
    KeyHash(Sha256::digest(text.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_generated_key_parses_to_its_id_and_hash() {
        let key = ApiKey::generate();
        assert_eq!(key.reveal().len(), LENGTH);
        let (id, hash) = identify(key.reveal()).unwrap();
        assert_eq!((id, hash), (key.id(), key.hash()));
        assert_eq!(ApiKey::parse(key.reveal()).unwrap(), key);
        assert_ne!(ApiKey::generate().hash(), key.hash());
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = ApiKey::generate();
        assert!(!format!("{key:?} {:?}", key.hash()).contains(&key.reveal()[PREFIX.len() + ID..]));
    }

    #[test]
    fn any_single_changed_character_is_refused_by_the_checksum() {
        let key = ApiKey::generate();
        for at in PREFIX.len()..LENGTH {
            let mut bytes = key.reveal().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(
                identify(std::str::from_utf8(&bytes).unwrap()).unwrap_err(),
                ParseKeyError::Checksum
            );
        }
    }

    #[test]
    fn a_key_is_found_anywhere_in_a_url() {
        let key = ApiKey::generate();
        let key = key.reveal();
        let escaped = key.replace('_', "%5f").replacen('t', "%74", 1);
        let all_escaped: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for key in [key, &escaped, &all_escaped, &key[..LENGTH - CHECKSUM]] {
            for place in [
                "/api/x/{key}",
                "/{key}/x",
                "/x?k={key}",
                "/x?{key}",
                "/x?{key}=1",
                "/x?Authorization=Bearer%20{key}",
                "/x?a=tr_live_&b=tr_live_tr_live_{key}&c=%",
                "/x?a=%E2%82&b={key}",
            ] {
                let url = place.replace("{key}", key);
                assert!(is_in_url(&url), "{url}");
            }
        }
        let id = &key[..PREFIX.len() + ID];
        for url in [
            "",
            "/x",
            "/x?q=tr_live_",
            "/docs/tr_live_keys",
            "/x?q=%74r_live_x",
            id,
            "/x%",
            "/x%7",
            "/%zz",
        ] {
            assert!(!is_in_url(url), "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_can_be_searched(text in "(\\PC|%|tr_live_){0,90}") {
            prop_assert!(!is_in_url(&text) || percent_decoded(&text).contains(PREFIX));
        }

        #[test]
        fn random_text_never_panics(text in "\\PC{0,90}") {
            prop_assert!(identify(&text).is_err());
        }
    }
}

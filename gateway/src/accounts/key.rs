//! An API key in the cache: the result of a request's one look-up.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use protocol::doubt::{Doubt, Moment};
use schema::{KeyId, Scopes, api_key::KeyHash};

use super::{
    account::Account,
    burst::{Bucket, BurstView, TooFast},
};
use crate::quota::AccountCounters;

pub struct Key {
    pub id: KeyId,
    pub account: Arc<Account>,
    pub counters: Arc<AccountCounters>,
    pub(crate) stored: StoredKey,
    /// Shared with the object that replaces this one when the key's row changes.
    pub(crate) shared: Arc<Shared>,
}

/// What stays when a key's row changes.
#[derive(Default)]
pub(crate) struct Shared {
    pub(super) bucket: Bucket,
    /// Of the row. In doubt, the key is not served.
    pub(super) doubt: Doubt,
    /// How many announcements had been heard before the row was read for the first time.
    pub(super) read_after: u64,
    /// The key is revoked or deleted.
    pub(super) ended: AtomicBool,
}

/// A key's row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredKey {
    pub hash: KeyHash,
    /// Unix seconds. From this time on, the key is refused.
    pub expires_at: Option<i64>,
    pub revoked: bool,
    pub scopes: Scopes,
}

impl StoredKey {
    /// Whether a key text with this hash is this key, and may still be used. In constant time for a wrong text.
    pub(crate) fn admits(&self, hash: &KeyHash, now_s: i64) -> bool {
        self.hash == *hash && !self.revoked && self.expires_at.is_none_or(|expires_at| now_s < expires_at)
    }
}

impl Key {
    /// Takes one request out of the key's bucket. `None`: its plan has no burst limit.
    pub fn take_request(&self, now_s: i64) -> Result<Option<BurstView>, TooFast> {
        match self.account.burst(now_s) {
            None => Ok(None),
            Some(burst) => self.shared.bucket.take(burst).map(Some),
        }
    }

    /// Whether the key and its account were read since the last announcement of a change to them.
    #[inline]
    pub(crate) fn is_read(&self) -> bool {
        self.shared.doubt.is_settled() && self.account.doubt.is_settled()
    }

    /// Whether the key was revoked or deleted since this object was made.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Settles a new key, and a new account, if no announcement was heard since their rows were read. Call it once the key is in
    /// the cache, where announcements find it. `heard`: how many announcements were heard by now.
    pub(super) fn settle_first_read(&self, heard: u64) {
        if self.shared.read_after == heard {
            self.shared.doubt.settle(Moment::FIRST);
        }
        if self.account.read_after == heard {
            self.account.doubt.settle(Moment::FIRST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_key_admits_its_own_text_until_it_expires_or_is_revoked() {
        let text = schema::api_key::ApiKey::generate();
        let other = schema::api_key::ApiKey::generate().hash();
        let mut key = StoredKey {
            hash: text.hash(),
            expires_at: Some(NOW + 10),
            revoked: false,
            scopes: Scopes::default(),
        };
        assert!(key.admits(&text.hash(), NOW + 9));
        assert!(!key.admits(&text.hash(), NOW + 10));
        assert!(!key.admits(&other, NOW));
        key.revoked = true;
        assert!(!key.admits(&text.hash(), NOW));
    }
}

//! Bounds the requests in flight, before they touch the database: those of one key, the `GET`s of one account, and all `GET`s.
//!
//! The account of a key is known once the database has confirmed the key, and is remembered.
//!
//! A request without a well-formed key needs no bound: it is refused without the database, or it needs no key. A key with a wrong
//! secret is another key, so only its owner can use its share. The webhook route is outside.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use moka::future::Cache;
use schema::{AccountId, api_key::KeyHash};

use super::authenticate;
use crate::{error::Error, metrics::Metrics};

/// Requests of one key. The changes of an account run one after another, so more of them would only wait.
const OF_A_KEY: usize = 8;
/// `GETS` of one account, whatever the number of its keys: a quarter of all.
const GETS_OF_AN_ACCOUNT: usize = 16;
/// `GET`s of all keys: sixteen for a connection to the database.
const GETS: usize = 64;

/// Keys whose account is remembered, at about 150 bytes each.
const REMEMBERED: u64 = 10_000;

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub(super) struct Share {
    in_flight: Arc<Mutex<InFlight>>,
    /// A key never changes its account.
    accounts: Cache<[u8; 32], AccountId>,
}

#[derive(Default)]
struct InFlight {
    /// Only keys with a request in flight.
    by_key: HashMap<[u8; 32], usize>,
    /// Only accounts with a `GET` in flight.
    gets_by_account: HashMap<AccountId, usize>,
    gets: usize,
}

/// A request in flight. Dropping it makes room for another.
struct Admitted {
    share: Share,
    key: KeyHash,
    account: Option<AccountId>,
    is_get: bool,
}

/// Middleware that answers 429 at once to a request that is too many.
pub(super) async fn bound(
    State((share, metrics)): State<(Share, Metrics)>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok((_, key)) = authenticate::identify(request.headers()) else {
        return next.run(request).await;
    };
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let account = share.accounts.get(key.as_bytes()).await;
    match share.admit(key, account, is_get) {
        Ok(_admitted) => {
            request.extensions_mut().insert(share);
            next.run(request).await
        }
        Err(refusal) => {
            metrics.request_shed();
            refusal.into_response()
        }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self {
            in_flight: Arc::default(),
            accounts: Cache::new(REMEMBERED),
        }
    }
}

impl Share {
    /// The database has confirmed that the key is the account's.
    pub(super) async fn remember(&self, key: KeyHash, account: AccountId) {
        self.accounts.insert(*key.as_bytes(), account).await;
    }

    fn admit(&self, key: KeyHash, account: Option<AccountId>, is_get: bool) -> Result<Admitted, Error> {
        let account = account.filter(|_| is_get);
        let mut in_flight = self.in_flight();
        if is_get && in_flight.gets >= GETS {
            return Err(Error::TooManyRequests("too many requests are in progress"));
        }
        let of_account = account.and_then(|account| in_flight.gets_by_account.get(&account));
        if of_account.is_some_and(|gets| *gets >= GETS_OF_AN_ACCOUNT) {
            return Err(Error::TooManyRequests(
                "too many requests with API keys of this account are in progress",
            ));
        }
        let of_key = in_flight.by_key.entry(*key.as_bytes()).or_default();
        if *of_key >= OF_A_KEY {
            return Err(Error::TooManyRequests(
                "too many requests with this API key are in progress",
            ));
        }
        *of_key += 1;
        in_flight.gets += usize::from(is_get);
        if let Some(account) = account {
            *in_flight.gets_by_account.entry(account).or_default() += 1;
        }
        Ok(Admitted {
            share: self.clone(),
            key,
            account,
            is_get,
        })
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut in_flight = self.share.in_flight();
        in_flight.gets -= usize::from(self.is_get);
        count_down(&mut in_flight.by_key, self.key.as_bytes());
        if let Some(account) = &self.account {
            count_down(&mut in_flight.gets_by_account, account);
        }
    }
}

fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use schema::api_key::ApiKey;

    use super::*;

    fn key() -> KeyHash {
        ApiKey::generate().hash()
    }

    #[tokio::test]
    async fn keys_and_all_reads_are_bounded_and_an_ended_request_makes_room() {
        let share = Share::default();
        let mut admitted = Vec::new();
        for _ in 0..GETS / OF_A_KEY {
            let key = key();
            admitted.extend((0..100).map_while(|_| share.admit(key, None, true).ok()));
            assert!(share.admit(key, None, false).is_err(), "the key has its share");
        }
        assert_eq!(admitted.len(), GETS);
        assert!(share.admit(key(), None, true).is_err(), "all reads have their share");
        assert!(share.admit(key(), None, false).is_ok(), "a change is no read");
        admitted.pop();
        assert!(share.admit(key(), None, true).is_ok());
        admitted.clear();
        assert_is_empty(&share);
    }

    #[tokio::test]
    async fn an_account_with_many_keys_leaves_room_for_the_others() {
        let share = Share::default();
        let [ada, bob] = [1, 2].map(|id| Some(AccountId(uuid::Uuid::from_u128(id))));
        let admitted: Vec<_> = (0..GETS).map_while(|_| share.admit(key(), ada, true).ok()).collect();
        assert_eq!(admitted.len(), GETS_OF_AN_ACCOUNT);
        assert!(share.admit(key(), ada, false).is_ok(), "a change is no read");
        assert!(share.admit(key(), bob, true).is_ok());
        drop(admitted);
        assert!(share.admit(key(), ada, true).is_ok());
        assert_is_empty(&share);
    }

    fn assert_is_empty(share: &Share) {
        let in_flight = share.in_flight();
        assert!(in_flight.gets == 0 && in_flight.by_key.is_empty() && in_flight.gets_by_account.is_empty());
    }
}

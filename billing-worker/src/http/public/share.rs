//! Bounds the requests in flight, before they touch the database: those of one key, and all `GET`s.
//!
//! A request without a well-formed key needs no bound: it is refused without the database, or it needs no key. A key with a wrong
//! secret is another key, so only its owner can use its share. The webhook route is outside.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use schema::api_key::KeyHash;

use super::authenticate;
use crate::{error::Error, metrics::Metrics};

/// Requests of one key. The changes of an account run one after another, so more of them would only wait.
const OF_A_KEY: usize = 8;
/// `GET`s of all keys: eight for each of eight keys, and sixteen for a connection to the database.
const GETS: usize = 64;

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub(super) struct Share {
    in_flight: Arc<Mutex<InFlight>>,
}

#[derive(Default)]
struct InFlight {
    /// Only keys with a request in flight.
    by_key: HashMap<[u8; 32], usize>,
    gets: usize,
}

/// A request in flight. Dropping it makes room for another.
struct Admitted {
    share: Share,
    key: KeyHash,
    is_get: bool,
}

/// Middleware that answers 429 at once to a request that is too many.
pub(super) async fn bound(State((share, metrics)): State<(Share, Metrics)>, request: Request, next: Next) -> Response {
    let Ok((_, key)) = authenticate::identify(request.headers()) else {
        return next.run(request).await;
    };
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    match share.admit(key, is_get) {
        Ok(_admitted) => next.run(request).await,
        Err(refusal) => {
            metrics.request_shed();
            refusal.into_response()
        }
    }
}

impl Share {
    fn admit(&self, key: KeyHash, is_get: bool) -> Result<Admitted, Error> {
        let mut in_flight = self.in_flight();
        if is_get && in_flight.gets >= GETS {
            return Err(Error::TooManyRequests("too many requests are in progress"));
        }
        let of_key = in_flight.by_key.entry(*key.as_bytes()).or_default();
        if *of_key >= OF_A_KEY {
            return Err(Error::TooManyRequests(
                "too many requests with this API key are in progress",
            ));
        }
        *of_key += 1;
        in_flight.gets += usize::from(is_get);
        Ok(Admitted {
            share: self.clone(),
            key,
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
        if let Some(of_key) = in_flight.by_key.get_mut(self.key.as_bytes()) {
            *of_key -= 1;
            if *of_key == 0 {
                in_flight.by_key.remove(self.key.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use schema::api_key::ApiKey;

    use super::*;

    #[test]
    fn a_key_and_all_reads_are_bounded_and_an_ended_request_makes_room() {
        let share = Share::default();
        let mut admitted = Vec::new();
        for _ in 0..GETS / OF_A_KEY {
            let key = ApiKey::generate().hash();
            admitted.extend((0..100).map_while(|_| share.admit(key, true).ok()));
            assert!(share.admit(key, false).is_err(), "the key has its share");
        }
        assert_eq!(admitted.len(), GETS);
        let other = ApiKey::generate().hash();
        assert!(share.admit(other, true).is_err(), "all reads have their share");
        assert!(share.admit(other, false).is_ok(), "a change is no read");
        admitted.pop();
        assert!(share.admit(other, true).is_ok());
        admitted.clear();
        let in_flight = share.in_flight();
        assert!(in_flight.gets == 0 && in_flight.by_key.is_empty());
    }
}

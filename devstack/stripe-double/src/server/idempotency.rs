//! Idempotency keys, kept for 24 hours as at Stripe. Every later call with a key gets the response of the first, also a 500. A call with other
//! parameters, or during the first call, is refused.

use std::collections::{HashMap, VecDeque};

use crate::failure::Failure;
use crate::form::Param;

const KEPT_S: i64 = 24 * 3_600;

const KEY_MAX: usize = 255;

/// Bounds the memory of a long load test: the oldest keys expire early.
const KEYS_MAX: usize = 200_000;

#[derive(Debug, Default)]
pub(crate) struct Idempotency {
    keys: HashMap<String, Entry>,
    /// In the order of their first calls, to find the expired ones.
    by_time: VecDeque<(i64, String)>,
}

#[derive(Debug)]
struct Entry {
    since: i64,
    method: String,
    path: String,
    params: Param,
    /// None while the call is in progress.
    answer: Option<Stored>,
}

/// A stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub status: u16,
    pub body: Vec<u8>,
    /// `Stripe-Should-Retry` of the first response.
    pub should_retry: Option<bool>,
}

#[derive(Debug)]
pub(crate) enum Begun {
    /// The first call with this key: end it with [`Idempotency::finish`] or [`Idempotency::abandon`].
    First,
    Again(Stored),
    Refused(Failure),
}

impl Idempotency {
    pub(crate) fn begin(&mut self, now: i64, key: &str, method: &str, path: &str, params: &Param) -> Begun {
        self.forget(now);
        if key.is_empty() || key.len() > KEY_MAX {
            return Begun::Refused(Failure::invalid("An idempotency key has 1 to 255 characters.").not_stored());
        }
        if let Some(entry) = self.keys.get(key) {
            let same = entry.method == method && entry.path == path && entry.params == *params;
            return match &entry.answer {
                _ if !same => Begun::Refused(Failure::other_parameters(key)),
                None => Begun::Refused(Failure::conflict()),
                Some(answer) => Begun::Again(answer.clone()),
            };
        }
        let entry = Entry {
            since: now,
            method: method.to_owned(),
            path: path.to_owned(),
            params: params.clone(),
            answer: None,
        };
        self.keys.insert(key.to_owned(), entry);
        self.by_time.push_back((now, key.to_owned()));
        Begun::First
    }

    pub(crate) fn finish(&mut self, key: &str, answer: Stored) {
        if let Some(entry) = self.keys.get_mut(key) {
            entry.answer = Some(answer);
        }
    }

    /// The call did not run, so its key is free again.
    pub(crate) fn abandon(&mut self, key: &str) {
        if self.keys.get(key).is_some_and(|entry| entry.answer.is_none()) {
            self.keys.remove(key);
        }
    }

    fn forget(&mut self, now: i64) {
        while self.by_time.len() > KEYS_MAX || self.by_time.front().is_some_and(|(since, _)| now - since >= KEPT_S) {
            let Some((since, key)) = self.by_time.pop_front() else {
                return;
            };
            if self.keys.get(&key).is_some_and(|entry| entry.since == since) {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(keys: &mut Idempotency, now: i64, body: &str) -> Begun {
        keys.begin(now, "k", "POST", "/v1/customers", &Param::parse(body).0)
    }

    fn stored(status: u16) -> Stored {
        Stored {
            status,
            body: b"{}".to_vec(),
            should_retry: None,
        }
    }

    #[test]
    fn stored_response_is_repeated_for_24_hours_even_a_500() {
        let mut keys = Idempotency::default();
        assert!(matches!(begin(&mut keys, 0, "a=1&b=2"), Begun::First));
        keys.finish("k", stored(500));
        assert!(matches!(begin(&mut keys, KEPT_S - 1, "b=2&a=1"), Begun::Again(answer) if answer.status == 500));
        assert!(matches!(begin(&mut keys, KEPT_S, "a=1&b=2"), Begun::First));
    }

    #[test]
    fn key_with_other_parameters_or_in_use_is_refused() {
        let mut keys = Idempotency::default();
        assert!(matches!(begin(&mut keys, 0, "a=1"), Begun::First));
        assert!(matches!(begin(&mut keys, 0, "a=1"), Begun::Refused(failure) if failure.status == 409));
        keys.finish("k", stored(200));
        assert!(matches!(begin(&mut keys, 0, "a=2"), Begun::Refused(failure) if failure.status == 400));
        let other_path = keys.begin(0, "k", "POST", "/v1/products", &Param::parse("a=1").0);
        assert!(matches!(other_path, Begun::Refused(_)));
    }

    #[test]
    fn call_that_did_not_run_leaves_its_key_free() {
        let mut keys = Idempotency::default();
        assert!(matches!(begin(&mut keys, 0, "a=1"), Begun::First));
        keys.abandon("k");
        assert!(matches!(begin(&mut keys, 1, "a=2"), Begun::First));
        keys.finish("k", stored(200));
        keys.abandon("k");
        // The queue entry of the first call must not expire the second call's key.
        assert!(matches!(begin(&mut keys, KEPT_S, "a=2"), Begun::Again(_)));
    }
}

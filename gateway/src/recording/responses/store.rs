//! The entry of each key, in the order of the responses, limited in time and bytes. Pure: the caller passes the time.
//!
//! All responses are kept for the same time, so the oldest one always leaves first, and a queue is enough. Keys under way are
//! not in the queue and are never evicted. Each belongs to a request in progress, so the limit of requests limits them, too.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use schema::EventId;

use super::{ClaimError, Counted, End, Fingerprint, StoredResponse};

pub(super) struct Store {
    ttl: Duration,
    bytes_max: usize,
    entries: HashMap<EventId, Entry>,
    /// Keys that are not in progress, oldest first. It may also contain positions of keys that were claimed again since.
    order: VecDeque<Position>,
    /// Bytes of all entries in `order`, and of `order` itself.
    bytes: usize,
    next_number: u64,
}

struct Entry {
    request: Fingerprint,
    state: KeyState,
    /// The number of its position in `order`.
    number: u64,
    at: Instant,
    bytes: usize,
}

enum KeyState {
    UnderWay {
        /// An earlier try may have been counted, even if this one is not.
        was_open: bool,
    },
    Answered(StoredResponse),
    Open(Option<Counted>),
}

struct Position {
    number: u64,
    name: EventId,
    at: Instant,
}

pub(super) enum StoreClaim {
    /// To be tried, with the items that an earlier try counted.
    Try(Option<Counted>),
    Replay(StoredResponse),
}

/// Bytes of a key without its response: its entry (twice, because a hash map keeps free space) and its position in the order.
const KEY_BYTES: usize = 2 * size_of::<(EventId, Entry)>() + POSITION_BYTES;
const POSITION_BYTES: usize = 2 * size_of::<Position>();

impl Store {
    pub(super) fn new(ttl: Duration, bytes_max: usize) -> Self {
        Self {
            ttl,
            bytes_max,
            entries: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            next_number: 0,
        }
    }

    /// The number of keys, and the bytes of keys that are not in progress.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Returns the state of the key. If the request is to be tried, the key is in progress from now on.
    pub(super) fn claim(
        &mut self,
        name: EventId,
        request: Fingerprint,
        now: Instant,
    ) -> Result<StoreClaim, ClaimError> {
        let ttl = self.ttl;
        let is_kept =
            |entry: &Entry| matches!(entry.state, KeyState::UnderWay { .. }) || now.duration_since(entry.at) < ttl;
        let (counted, was_open) = match self.entries.get(&name).filter(|entry| is_kept(entry)) {
            Some(entry) if entry.request != request => return Err(ClaimError::OtherRequest),
            Some(entry) => match &entry.state {
                KeyState::UnderWay { .. } => return Err(ClaimError::UnderWay),
                KeyState::Answered(response) => return Ok(StoreClaim::Replay(response.clone())),
                KeyState::Open(counted) => (counted.clone(), true),
            },
            None => (None, false),
        };
        self.remove(name);
        let entry = Entry {
            request,
            state: KeyState::UnderWay { was_open },
            number: 0,
            at: now,
            bytes: 0,
        };
        self.entries.insert(name, entry);
        Ok(StoreClaim::Try(counted))
    }

    /// Ends the work on a key. Returns how many other keys were evicted before their time.
    pub(super) fn end(&mut self, name: EventId, end: End, now: Instant) -> u64 {
        let Some(mut entry) = self.entries.remove(&name) else {
            return 0;
        };
        let was_open = matches!(entry.state, KeyState::UnderWay { was_open: true });
        entry.state = match end {
            End::Answered(response) => KeyState::Answered(response),
            End::Open(counted) => KeyState::Open(counted),
            // The outcome of an earlier try is unknown, so the key's event may still be counted.
            End::NotCounted if was_open => KeyState::Open(None),
            End::NotCounted => return 0,
        };
        entry.bytes = KEY_BYTES - POSITION_BYTES + entry.state.bytes();
        (entry.number, entry.at) = (self.next_number, now);
        self.next_number += 1;
        self.bytes += entry.bytes + POSITION_BYTES;
        self.order.push_back(Position {
            number: entry.number,
            name,
            at: now,
        });
        self.entries.insert(name, entry);
        self.make_room(now)
    }

    fn make_room(&mut self, now: Instant) -> u64 {
        let mut evicted = 0;
        while let Some(oldest) = self.order.front() {
            let is_over = now.duration_since(oldest.at) >= self.ttl;
            if !is_over && self.bytes <= self.bytes_max {
                break;
            }
            let (number, name) = (oldest.number, oldest.name);
            self.order.pop_front();
            self.bytes -= POSITION_BYTES;
            // If the key was claimed since, this position is outdated.
            if self
                .entries
                .get(&name)
                .is_some_and(|entry| entry.number == number && !matches!(entry.state, KeyState::UnderWay { .. }))
            {
                self.remove(name);
                evicted += u64::from(!is_over);
            }
        }
        evicted
    }

    /// Removes the entry. Its position in the order stays until [`Self::make_room`] removes it.
    fn remove(&mut self, name: EventId) {
        if let Some(entry) = self.entries.remove(&name) {
            self.bytes -= entry.bytes;
        }
    }
}

impl KeyState {
    fn bytes(&self) -> usize {
        match self {
            Self::UnderWay { .. } | Self::Open(None) => 0,
            Self::Answered(response) => response.bytes(),
            Self::Open(Some(counted)) => {
                let texts: usize = counted.iter().flatten().map(|item| item.get().len()).sum();
                size_of_val(&**counted) + texts
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::value::RawValue;
    use uuid::Uuid;

    const TTL: Duration = Duration::from_secs(60);

    fn name(n: u128) -> EventId {
        EventId(Uuid::from_u128(n + 1))
    }

    fn request(body: &str) -> Fingerprint {
        Fingerprint::of("POST", "/v1/usage", body.as_bytes())
    }

    fn response(text: &str) -> StoredResponse {
        StoredResponse {
            status: 200,
            headers: [].into(),
            body: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    fn shown(claim: Result<StoreClaim, ClaimError>) -> String {
        match claim {
            Ok(StoreClaim::Try(None)) => "try".into(),
            Ok(StoreClaim::Try(Some(counted))) => format!("try all but {}", counted.iter().flatten().count()),
            Ok(StoreClaim::Replay(response)) => String::from_utf8(response.body.to_vec()).unwrap(),
            Err(ClaimError::UnderWay) => "under way".into(),
            Err(ClaimError::OtherRequest) => "other".into(),
        }
    }

    #[test]
    fn the_same_request_gets_the_first_response_until_its_time_ends() {
        let (mut store, now) = (Store::new(TTL, 1 << 20), Instant::now());
        assert_eq!(shown(store.claim(name(1), request("a"), now)), "try");
        assert_eq!(shown(store.claim(name(1), request("a"), now)), "under way");
        assert_eq!(shown(store.claim(name(1), request("b"), now)), "other");
        assert_eq!(shown(store.claim(name(2), request("b"), now)), "try");
        store.end(name(1), End::Answered(response("done")), now);
        let late = now + TTL - Duration::from_millis(1);
        assert_eq!(shown(store.claim(name(1), request("a"), late)), "done");
        assert_eq!(shown(store.claim(name(1), request("b"), late)), "other");
        assert_eq!(shown(store.claim(name(1), request("b"), now + TTL)), "try");
    }

    #[test]
    fn a_key_is_free_if_nothing_was_counted_and_keeps_its_request_if_something_may_have_been() {
        let (mut store, now) = (Store::new(TTL, 1 << 20), Instant::now());
        assert_eq!(shown(store.claim(name(1), request("a"), now)), "try");
        store.end(name(1), End::NotCounted, now);
        assert_eq!(store.size(), (0, 0));
        assert_eq!(shown(store.claim(name(1), request("b"), now)), "try");

        store.end(name(1), End::Open(None), now);
        assert_eq!(shown(store.claim(name(1), request("a"), now)), "other");
        assert_eq!(shown(store.claim(name(1), request("b"), now)), "try");
        store.end(name(1), End::NotCounted, now);
        assert_eq!(
            shown(store.claim(name(1), request("a"), now)),
            "other",
            "the first try may have been counted"
        );
    }

    #[test]
    fn counted_items_of_a_batch_are_handed_to_its_next_try() {
        let (mut store, now) = (Store::new(TTL, 1 << 20), Instant::now());
        assert_eq!(shown(store.claim(name(1), request("a"), now)), "try");
        let item = RawValue::from_string("1".into()).unwrap();
        store.end(name(1), End::Open(Some([Some(item), None].into())), now);
        assert_eq!(shown(store.claim(name(1), request("a"), now)), "try all but 1");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Claim(u128, u8),
        Answer(u128, usize),
        Open(u128),
        NotCounted(u128),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20u128, 0..2u8).prop_map(|(name, body)| Step::Claim(name, body)),
            (0..20u128, 0..2_000usize).prop_map(|(name, size)| Step::Answer(name, size)),
            (0..20u128).prop_map(Step::Open),
            (0..20u128).prop_map(Step::NotCounted),
            (0..40u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Compares the store with an unlimited map: it invents nothing, allows one try at a time, and keeps its limits.
        #[test]
        fn bounds_hold_and_no_request_gets_the_response_of_another(steps in prop::collection::vec(step(), 1..300)) {
            const MAX: usize = 6_000;
            let (mut store, mut now) = (Store::new(TTL, MAX), Instant::now());
            let mut under_way: HashMap<u128, u8> = HashMap::new();
            let mut responses: HashMap<u128, (u8, usize, Instant)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Claim(n, body) => match store.claim(name(n), request(&body.to_string()), now) {
                        Ok(StoreClaim::Try(_)) => {
                            prop_assert!(!under_way.contains_key(&n));
                            under_way.insert(n, body);
                        }
                        Ok(StoreClaim::Replay(response)) => {
                            let (of, size, at) = responses[&n];
                            prop_assert_eq!((of, size), (body, response.body.len()));
                            prop_assert!(now < at + TTL && !under_way.contains_key(&n));
                        }
                        Err(ClaimError::UnderWay) => prop_assert_eq!(under_way[&n], body),
                        Err(ClaimError::OtherRequest) => {
                            let known = under_way.get(&n).or(responses.get(&n).map(|(body, ..)| body));
                            prop_assert!(known.is_none_or(|known| *known != body));
                        }
                    },
                    Step::Answer(n, size) => if let Some(body) = under_way.remove(&n) {
                        store.end(name(n), End::Answered(response(&"x".repeat(size))), now);
                        responses.insert(n, (body, size, now));
                    },
                    Step::Open(n) => if under_way.remove(&n).is_some() {
                        store.end(name(n), End::Open(None), now);
                        responses.remove(&n);
                    },
                    Step::NotCounted(n) => if under_way.remove(&n).is_some() {
                        store.end(name(n), End::NotCounted, now);
                        responses.remove(&n);
                    },
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                let kept: usize = store.entries.values().map(|entry| entry.bytes).sum();
                prop_assert_eq!(store.bytes, kept + store.order.len() * POSITION_BYTES);
                prop_assert!(store.bytes <= MAX, "{} bytes", store.bytes);
            }
        }
    }
}

//! Which events of a range are duplicates. All requests with one `Idempotency-Key` have the same event id at every gateway.
//! The first event counts, and the others are dropped.
//!
//! An event is a duplicate if an event with its id is earlier in the range, or was sealed at most one window
//! (`IDEMPOTENCY_WINDOW`) before the stream stored this one. Gateways' clocks do not matter. An event without a key costs only
//! the check that it has none.
//!
//! The owner of a shard remembers a limited number of ids that it sealed itself. It asks ClickHouse, once for each id, about ids
//! that it does not remember and that may have been sealed within the window.
//!
//! # Promises
//! - Of the events with one id, at most one is kept in each window.
//! - No event is a duplicate of itself: an id is remembered only after the manifest of its range was written, and ClickHouse is
//!   asked only about rows before the range.
//! - The time when the stream stored an event decides, and it never changes. So an event that was dropped stays dropped.
//!
//! The model `manifest` decides with this code and checks the properties "at most one event of each id is kept" and "no position
//! is both kept and dropped". Its mutants `DuplicatesNotInManifest` and `DuplicatesAfterRows` deviate and fail.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use schema::{AccountId, EventId};

use crate::range::EventPosition;

/// Largest difference between the clocks of two ingestors, in milliseconds: a range that another one sealed may appear to be
/// from the future.
const CLOCKS_APART_MS: i64 = 3_600_000;

/// When each id was sealed, in milliseconds since the Unix epoch.
pub type SealedAt = HashMap<EventId, i64>;

/// An event with an `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedEvent {
    pub position: EventPosition,
    pub account_id: AccountId,
    pub event_id: EventId,
    /// When the stream stored its record, in milliseconds since the Unix epoch.
    pub stored_ms: i64,
}

/// The question to ClickHouse before a range can be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Sorted, without repeats.
    pub ids: Vec<(AccountId, EventId)>,
    /// Events sealed before this time (milliseconds since the Unix epoch) do not matter.
    pub since_ms: i64,
    /// The first record of the range: rows from here on are not before it.
    pub first: u64,
}

/// The ids that one owner of a shard has sealed itself. Each owner starts with an empty one. So it never holds an id whose
/// manifest was not written: that event would become a duplicate of itself.
#[derive(Debug)]
pub struct Remembered {
    window_ms: i64,
    ids_max: usize,
    at: SealedAt,
    /// The same, in the order of sealing.
    order: VecDeque<(EventId, i64)>,
    /// All ids that were sealed after this time are here.
    complete_since_ms: i64,
}

impl Remembered {
    /// Remembers at most `ids_max` ids.
    pub fn new(window: Duration, ids_max: usize, now_ms: i64) -> Self {
        Self {
            window_ms: i64::try_from(window.as_millis()).unwrap_or(i64::MAX),
            ids_max,
            at: SealedAt::new(),
            order: VecDeque::new(),
            complete_since_ms: now_ms.saturating_add(CLOCKS_APART_MS),
        }
    }

    /// Remembers nothing, so every id is asked for.
    pub fn nothing(window: Duration) -> Self {
        Self::new(window, 0, i64::MAX)
    }

    /// The question to ClickHouse before these records can be sealed. `None`: there is none. `first`: the first record.
    pub fn question(&self, first: u64, events: impl Iterator<Item = KeyedEvent> + Clone) -> Option<Question> {
        let since_ms = self.since_ms(events.clone().map(|event| event.stored_ms).min()?);
        if since_ms > self.complete_since_ms {
            return None;
        }
        let mut ids: Vec<_> = events
            .filter(|event| !self.has(event.event_id, event.stored_ms))
            .map(|event| (event.account_id, event.event_id))
            .collect();
        // By account, because ClickHouse stores rows by account.
        ids.sort_unstable();
        ids.dedup();
        (!ids.is_empty()).then_some(Question { ids, since_ms, first })
    }

    /// The positions to drop, in order. `stored`: the answer to the question.
    pub fn dropped(&self, events: impl Iterator<Item = KeyedEvent>, stored: &SealedAt) -> Vec<EventPosition> {
        let mut here: HashSet<EventId> = HashSet::new();
        let mut dropped = Vec::new();
        for event in events {
            let id = event.event_id;
            let since_ms = self.since_ms(event.stored_ms);
            let was_stored = stored.get(&id).is_some_and(|sealed_ms| *sealed_ms >= since_ms);
            if was_stored || self.has(id, event.stored_ms) || !here.insert(id) {
                dropped.push(event.position);
            }
        }
        dropped
    }

    /// Remembers events with a key that were sealed. Call it after their manifest was written.
    pub fn sealed(&mut self, ids: impl Iterator<Item = EventId>, sealed_ms: i64) {
        for id in ids {
            self.at.insert(id, sealed_ms);
            self.order.push_back((id, sealed_ms));
        }
        while let Some((id, at)) = self.order.front().copied() {
            if at >= self.since_ms(sealed_ms) && self.order.len() <= self.ids_max {
                break;
            }
            // Even if its window has passed: the stream may still deliver records that it stored long ago.
            self.complete_since_ms = self.complete_since_ms.max(at);
            self.order.pop_front();
            // Keep the entry if its key was used again since.
            if self.at.get(&id) == Some(&at) {
                self.at.remove(&id);
            }
        }
    }

    fn has(&self, id: EventId, stored_ms: i64) -> bool {
        self.at.get(&id).is_some_and(|at| *at >= self.since_ms(stored_ms))
    }

    fn since_ms(&self, stored_ms: i64) -> i64 {
        stored_ms.saturating_sub(self.window_ms)
    }
}

#[cfg(test)]
mod tests;

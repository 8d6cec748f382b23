//! Finds the events of a range that are duplicates. All requests with one `Idempotency-Key` have the same event id at every
//! gateway. The first event counts, and the others are dropped. Pure: [`stored_before`](super::stored_before) asks ClickHouse,
//! and the caller passes the clock.
//!
//! An event is a duplicate if an event with its id is earlier in the range, or was sealed at most one window
//! (`IDEMPOTENCY_WINDOW`) before the stream stored this one. Gateways' clocks do not matter. An event without a key costs only
//! the check that it has none.
//!
//! The owner of a shard remembers a limited number of ids that it sealed itself. It asks ClickHouse, once for each id, about ids
//! that it does not remember and that may have been sealed within the window.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use schema::{AccountId, EventId, UsageEvent};

use super::{range::At, record::Record};
use crate::config::DuplicateSettings;

/// Largest difference between the clocks of two ingestors, in milliseconds: a range that another one sealed may appear to be
/// from the future.
const CLOCKS_APART_MS: i64 = 3_600_000;

/// Most positions that are dropped from a range of more than one record. Its manifest lists them all in one NATS message;
/// 10,000 of them take at most 330 kB.
pub const DROPPED_MAX: usize = 10_000;

/// When each id was sealed, in milliseconds since the Unix epoch.
pub type SealedAt = HashMap<EventId, i64>;

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
    keys_max: usize,
    at: SealedAt,
    /// The same, in the order of sealing.
    order: VecDeque<(EventId, i64)>,
    /// All ids that were sealed after this time are here.
    complete_since_ms: i64,
}

impl Remembered {
    /// `shards`: how many shards share the memory of an ingestor that owns them all.
    pub fn new(settings: &DuplicateSettings, shards: u16, now_ms: i64) -> Self {
        Self {
            window_ms: milliseconds(settings.idempotency_window),
            keys_max: settings.idempotency_keys_max / usize::from(shards.max(1)),
            at: SealedAt::new(),
            order: VecDeque::new(),
            complete_since_ms: now_ms.saturating_add(CLOCKS_APART_MS),
        }
    }

    /// Remembers nothing, so every id is asked for.
    pub fn nothing(settings: &DuplicateSettings) -> Self {
        Self::new(settings, 1, i64::MAX)
    }

    /// The question to ClickHouse before these records can be sealed. `None`: there is none.
    pub fn question(&self, records: &[Record]) -> Option<Question> {
        let since_ms = self.since_ms(keyed(records).map(|(record, ..)| record.stored_ms).min()?);
        if since_ms > self.complete_since_ms {
            return None;
        }
        let mut ids: Vec<_> = keyed(records)
            .filter(|(record, _, event)| !self.has(event.event_id, record.stored_ms))
            .map(|(.., event)| (event.account_id, event.event_id))
            .collect();
        // By account, because ClickHouse stores rows by account.
        ids.sort_unstable();
        ids.dedup();
        let first = records.first()?.seq;
        (!ids.is_empty()).then_some(Question { ids, since_ms, first })
    }

    /// The positions to drop, in order, and how many records they cover: the rest of the records is for the next range.
    pub fn dropped(&self, records: &[Record], stored: &SealedAt) -> (Vec<At>, usize) {
        let mut dropped = self.all_dropped(records, stored);
        let Some((over, _)) = dropped.get(DROPPED_MAX).copied() else {
            return (dropped, records.len());
        };
        // The record that exceeds the bound is for the next range. A single record may exceed it.
        let taken = records.partition_point(|record| record.seq < over).max(1);
        let last = records.get(taken - 1).map_or(over, |record| record.seq);
        dropped.retain(|(seq, _)| *seq <= last);
        (dropped, taken)
    }

    /// All positions to drop, in order, without a bound.
    pub fn all_dropped(&self, records: &[Record], stored: &SealedAt) -> Vec<At> {
        let mut here: HashSet<EventId> = HashSet::new();
        let mut dropped = Vec::new();
        for (record, idx, event) in keyed(records) {
            let id = event.event_id;
            let since_ms = self.since_ms(record.stored_ms);
            let was_stored = stored.get(&id).is_some_and(|sealed_ms| *sealed_ms >= since_ms);
            if was_stored || self.has(id, record.stored_ms) || !here.insert(id) {
                dropped.push((record.seq, idx));
            }
        }
        dropped
    }

    /// Remembers events that were sealed, after their manifest was written.
    pub fn sealed<'a>(&mut self, events: impl Iterator<Item = &'a UsageEvent>, sealed_ms: i64) {
        for event in events.filter(|event| has_key(event)) {
            self.at.insert(event.event_id, sealed_ms);
            self.order.push_back((event.event_id, sealed_ms));
        }
        while let Some((id, at)) = self.order.front().copied() {
            if at >= self.since_ms(sealed_ms) && self.order.len() <= self.keys_max {
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

/// Events with a key, with their records and indices.
fn keyed(records: &[Record]) -> impl Iterator<Item = (&Record, u32, &UsageEvent)> {
    records
        .iter()
        .flat_map(|record| record.indexed().map(move |(idx, event)| (record, idx, event)))
        .filter(|(.., event)| has_key(event))
}

fn has_key(event: &UsageEvent) -> bool {
    !event.idempotency_key.is_empty()
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

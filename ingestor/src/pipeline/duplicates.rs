//! Which events of a batch were stored before: tries of one `Idempotency-Key` that came through several gateways, or again
//! through one that has forgotten the first, name one event. The first counts, the others are dropped. Pure: what ClickHouse
//! holds is asked for by [`crate::pipeline::stored_before`], and the clock is the caller's.
//!
//! An event is a duplicate if one with its id is earlier in the batch, or was sealed no longer before the stream got this one
//! than the window (`IDEMPOTENCY_WINDOW`). No clock of a gateway is asked. Events without a key cost a look at their key.
//!
//! What this ingestor sealed itself since it took the shard is remembered, up to a bound; of what was sealed earlier, or was
//! forgotten, ClickHouse knows: as long as that can matter, it is asked about each id once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use schema::{AccountId, EventId, UsageEvent};

use crate::{config::DuplicateSettings, pipeline::range::Record};

/// How far the clocks of two ingestors may lie apart, in milliseconds: what another one sealed may seem to be of the future.
const CLOCKS_APART_MS: i64 = 3_600_000;

/// Positions dropped from one range, at the most, if it has more than one record: its manifest names them all, in one
/// message of NATS. 10,000 of them take 330 kB at the most.
pub const DROPPED_MAX: usize = 10_000;

/// Ids by when they were sealed, in Unix milliseconds.
pub type SealedAt = HashMap<EventId, i64>;

/// What has to be known before a batch can be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// In order, each once.
    pub ids: Vec<(AccountId, EventId)>,
    /// What was sealed before this (Unix milliseconds) does not matter.
    pub since_ms: i64,
    /// The first record of the batch: what stands there or behind it was not before it.
    pub first: u64,
}

/// What one owner of a shard has sealed itself. Made anew with each taking of the shard, so that it never holds an id whose
/// manifest was not written: that event would be taken for a duplicate of itself.
#[derive(Debug)]
pub struct Remembered {
    window_ms: i64,
    keys_max: usize,
    at: SealedAt,
    /// The same, in the order of sealing.
    order: VecDeque<(EventId, i64)>,
    /// All that was sealed after this is remembered.
    complete_since_ms: i64,
}

impl Remembered {
    /// `shards`: how many share the memory of an ingestor, should it have them all.
    pub fn new(settings: &DuplicateSettings, shards: u16, now_ms: i64) -> Self {
        Self {
            window_ms: milliseconds(settings.idempotency_window),
            keys_max: settings.idempotency_keys_max / usize::from(shards.max(1)),
            at: SealedAt::new(),
            order: VecDeque::new(),
            complete_since_ms: now_ms.saturating_add(CLOCKS_APART_MS),
        }
    }

    /// For who remembers nothing: all has to be asked.
    pub fn nothing(settings: &DuplicateSettings) -> Self {
        Self::new(settings, 1, i64::MAX)
    }

    /// What ClickHouse has to be asked before these records can be sealed. `None`: nothing.
    pub fn question(&self, records: &[Record]) -> Option<Question> {
        let since_ms = self.since_ms(keyed(records).map(|(record, ..)| record.stored_ms).min()?);
        if since_ms > self.complete_since_ms {
            return None;
        }
        let mut ids: Vec<_> = keyed(records)
            .filter(|(record, _, event)| !self.has(event.event_id, record.stored_ms))
            .map(|(.., event)| (event.account_id, event.event_id))
            .collect();
        // One account's together: its rows are.
        ids.sort_unstable();
        ids.dedup();
        let first = records.first()?.seq;
        (!ids.is_empty()).then_some(Question { ids, since_ms, first })
    }

    /// The positions to drop, in order, and of how many of the records: the rest is for another range.
    pub fn dropped(&self, records: &[Record], stored: &SealedAt) -> (Vec<(u64, u32)>, usize) {
        let mut dropped = self.all_dropped(records, stored);
        let Some((over, _)) = dropped.get(DROPPED_MAX).copied() else {
            return (dropped, records.len());
        };
        // The record that passes the bound is for the next range; alone it may pass it.
        let taken = records.partition_point(|record| record.seq < over).max(1);
        let last = records.get(taken - 1).map_or(over, |record| record.seq);
        dropped.retain(|(seq, _)| *seq <= last);
        (dropped, taken)
    }

    /// The positions to drop, however many, in order.
    pub fn all_dropped(&self, records: &[Record], stored: &SealedAt) -> Vec<(u64, u32)> {
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

    /// These events were sealed, and that was written down.
    pub fn sealed<'a>(&mut self, events: impl Iterator<Item = &'a UsageEvent>, sealed_ms: i64) {
        for event in events.filter(|event| has_key(event)) {
            self.at.insert(event.event_id, sealed_ms);
            self.order.push_back((event.event_id, sealed_ms));
        }
        while let Some((id, at)) = self.order.front().copied() {
            if at >= self.since_ms(sealed_ms) && self.order.len() <= self.keys_max {
                break;
            }
            // Also where its window is over by now: records may come that the stream has had for long.
            self.complete_since_ms = self.complete_since_ms.max(at);
            self.order.pop_front();
            // Unless its key was used again since.
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
        .flat_map(|record| {
            (0u32..)
                .zip(&record.events)
                .map(move |(idx, event)| (record, idx, event))
        })
        .filter(|(.., event)| has_key(event))
}

fn has_key(event: &UsageEvent) -> bool {
    !event.idempotency_key.is_empty()
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::row::tests::event;
    use proptest::prelude::*;
    use schema::RunId;

    const HOUR: i64 = 3_600_000;
    const SETTINGS: DuplicateSettings = DuplicateSettings {
        idempotency_window: Duration::from_secs(25 * 3_600),
        idempotency_keys_max: 100,
    };

    /// A record with an event for each key; 0: none.
    fn record(seq: u64, stored_ms: i64, keys: &[u128]) -> Record {
        let event = |key: &u128| UsageEvent {
            idempotency_key: match key {
                0 => String::new(),
                key => key.to_string(),
            },
            ..event(*key)
        };
        Record {
            seq,
            run_id: RunId(uuid::Uuid::from_u128(7)),
            events: keys.iter().map(event).collect(),
            bytes: 10,
            stored_ms,
            permit: None,
        }
    }

    fn id(key: u128) -> EventId {
        event(key).event_id
    }

    fn remembered(keys_max: usize, now_ms: i64) -> Remembered {
        let settings = DuplicateSettings {
            idempotency_keys_max: keys_max,
            ..SETTINGS
        };
        Remembered::new(&settings, 1, now_ms)
    }

    fn events(records: &[Record]) -> impl Iterator<Item = &UsageEvent> {
        records.iter().flat_map(|record| &record.events)
    }

    #[test]
    fn events_without_a_key_are_asked_about_never_and_dropped_never() {
        let records = [record(1, 0, &[0, 0]), record(2, 0, &[0])];
        let mut remembered = remembered(100, 0);
        assert_eq!(remembered.question(&records), None);
        assert_eq!(remembered.dropped(&records, &SealedAt::new()), (vec![], 2));
        remembered.sealed(events(&records), 0);
        assert!(remembered.at.is_empty());
    }

    #[test]
    fn the_first_of_a_batch_stands_and_what_was_stored_before_does_not() {
        let records = [record(3, 0, &[1, 0, 1]), record(5, 0, &[2, 1, 3])];
        let remembered = remembered(100, 0);
        let question = remembered.question(&records).unwrap();
        assert_eq!(
            question.ids.iter().map(|(_, id)| *id).collect::<Vec<_>>(),
            [id(1), id(2), id(3)]
        );
        assert_eq!((question.first, question.since_ms), (3, -25 * HOUR));
        let stored = SealedAt::from([(id(2), -HOUR)]);
        assert_eq!(remembered.dropped(&records, &stored).0, [(3, 2), (5, 0), (5, 1)]);
    }

    #[test]
    fn what_was_sealed_here_is_known_without_a_question_for_as_long_as_the_window() {
        let start = 1_000 * HOUR;
        let mut remembered = remembered(100, start);
        let first = [record(1, start, &[1])];
        assert!(remembered.question(&first).is_some());
        remembered.sealed(events(&first), start);
        let dropped =
            |remembered: &Remembered, stored_ms| remembered.dropped(&[record(2, stored_ms, &[1])], &SealedAt::new()).0;
        assert_eq!(remembered.question(&[record(2, start + HOUR, &[1])]), None);
        assert_eq!(dropped(&remembered, start + 25 * HOUR), [(2, 0)]);
        assert_eq!(dropped(&remembered, start + 25 * HOUR + 1), []);
        // Once all that others sealed is older than the window, nothing is asked any more.
        let other = |hours: i64| [record(3, start + hours * HOUR, &[2])];
        assert!(remembered.question(&other(26)).is_some());
        assert_eq!(remembered.question(&other(27)), None);
    }

    #[test]
    fn what_made_room_is_asked_for_again() {
        let start = 1_000 * HOUR;
        let later = start + 100 * HOUR;
        let mut remembered = remembered(2, start);
        for (n, key) in [1, 2, 3].into_iter().enumerate() {
            let at = later + n as i64;
            let records = [record(n as u64, at, &[key])];
            assert_eq!(remembered.question(&records).is_some(), n > 2);
            remembered.sealed(events(&records), at);
        }
        assert_eq!((remembered.at.len(), remembered.order.len()), (2, 2));
        let question = remembered.question(&[record(9, later + 3, &[1, 3])]).unwrap();
        assert_eq!(question.ids.len(), 1, "3 is remembered");
        assert_eq!(remembered.question(&[record(9, later + 26 * HOUR, &[4])]), None);
    }

    #[test]
    fn a_range_drops_no_more_than_its_manifest_can_name() {
        let many: Vec<u128> = vec![1; DROPPED_MAX / 2];
        let records: Vec<_> = (1..=4).map(|seq| record(seq, 0, &many)).collect();
        let (dropped, taken) = remembered(100, 0).dropped(&records, &SealedAt::new());
        assert_eq!((dropped.len(), taken), (DROPPED_MAX - 1, 2));
        let alone = [record(1, 0, &many.repeat(3)), record(2, 0, &[2])];
        let (dropped, taken) = remembered(100, 0).dropped(&alone, &SealedAt::new());
        assert_eq!(
            (dropped.len(), taken),
            (DROPPED_MAX / 2 * 3 - 1, 1),
            "a record is never split"
        );
    }

    /// A shard's life: keys come at random, batches are cut at random, owners change and forget, memory is short.
    #[derive(Clone, Debug)]
    enum Step {
        Record(Vec<u128>),
        Seal,
        TakeOver,
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::collection::vec(0..12u128, 0..6).prop_map(Step::Record),
            2 => Just(Step::Seal),
            1 => Just(Step::TakeOver),
            1 => (1..30i64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a list of all that was ever sealed: whatever is dropped has a first within the window, and whatever is
        /// kept has none.
        #[test]
        fn one_event_of_a_key_stands_in_each_window(steps in prop::collection::vec(step(), 1..80), keys_max in 0..20usize) {
            let (mut now, mut seq) = (1_000 * HOUR, 0);
            let mut owner = remembered(keys_max, now);
            let mut records: Vec<Record> = Vec::new();
            // ClickHouse: ids with the times at which they were sealed.
            let mut rows: Vec<(EventId, i64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Record(keys) => {
                        seq += 1;
                        records.push(record(seq, now, &keys));
                    }
                    Step::Wait(hours) => now += hours * HOUR,
                    // What was gathered is read again, by another.
                    Step::TakeOver => owner = remembered(keys_max, now),
                    Step::Seal => {
                        let known = owner.question(&records).map_or_else(SealedAt::new, |question| {
                            let asked = |id: &EventId| question.ids.iter().any(|(_, of)| of == id);
                            let found = rows.iter().filter(|(id, at)| asked(id) && *at >= question.since_ms);
                            found.copied().collect()
                        });
                        let (dropped, taken) = owner.dropped(&records, &known);
                        prop_assert_eq!(taken, records.len());
                        let mut here = HashSet::new();
                        let mut kept = Vec::new();
                        for (record, idx, event) in keyed(&records) {
                            let earlier = rows.iter().any(|(id, at)| {
                                *id == event.event_id && *at >= record.stored_ms - 25 * HOUR
                            });
                            let is_duplicate = earlier || !here.insert(event.event_id);
                            prop_assert_eq!(dropped.binary_search(&(record.seq, idx)).is_ok(), is_duplicate);
                            if !is_duplicate {
                                kept.push(event.clone());
                            }
                        }
                        owner.sealed(kept.iter(), now);
                        rows.extend(kept.iter().map(|event| (event.event_id, now)));
                        records.clear();
                        prop_assert!(owner.order.len() <= keys_max && owner.at.len() <= keys_max);
                    }
                }
            }
        }
    }
}

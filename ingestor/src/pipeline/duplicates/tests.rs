use super::*;
use crate::pipeline::row::tests::event;
use proptest::prelude::*;
use schema::RunId;

const HOUR: i64 = 3_600_000;
const SETTINGS: DuplicateSettings = DuplicateSettings {
    idempotency_window: Duration::from_secs(25 * 3_600),
    idempotency_keys_max: 100,
};

/// A record with one event for each key. 0: an event without a key.
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
fn events_without_a_key_are_neither_asked_for_nor_dropped() {
    let records = [record(1, 0, &[0, 0]), record(2, 0, &[0])];
    let mut remembered = remembered(100, 0);
    assert_eq!(remembered.question(&records), None);
    assert_eq!(remembered.dropped(&records, &SealedAt::new()), (vec![], 2));
    remembered.sealed(events(&records), 0);
    assert!(remembered.at.is_empty());
}

#[test]
fn the_first_event_counts_unless_it_was_stored_before() {
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
fn ids_sealed_here_need_no_question_within_the_window() {
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
    // When everything that others sealed is older than the window, there is no question.
    let other = |hours: i64| [record(3, start + hours * HOUR, &[2])];
    assert!(remembered.question(&other(26)).is_some());
    assert_eq!(remembered.question(&other(27)), None);
}

#[test]
fn forgotten_ids_are_asked_for_again() {
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
fn a_range_drops_no_more_than_its_manifest_can_list() {
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

/// The life of a shard: random keys, random cuts, owners that change and forget, little memory.
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
    /// Compares with a list of everything ever sealed: a dropped event has an earlier one within the window, a kept event
    /// has none.
    #[test]
    fn one_event_of_a_key_counts_in_each_window(steps in prop::collection::vec(step(), 1..80), keys_max in 0..20usize) {
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
                // The next owner reads the gathered records again.
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

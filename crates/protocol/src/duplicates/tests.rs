use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const HOUR: i64 = 3_600_000;
const WINDOW: Duration = Duration::from_secs(25 * 3_600);

/// A record whose events have these keys. 0: an event without a key.
#[derive(Clone, Debug)]
struct Record {
    seq: u64,
    stored_ms: i64,
    keys: Vec<u128>,
}

fn record(seq: u64, stored_ms: i64, keys: &[u128]) -> Record {
    Record {
        seq,
        stored_ms,
        keys: keys.to_vec(),
    }
}

fn id(key: u128) -> EventId {
    EventId(Uuid::from_u128(key + 1))
}

fn keyed(records: &[Record]) -> impl Iterator<Item = KeyedEvent> + Clone {
    records.iter().flat_map(|record| {
        let keys = (0u32..).zip(&record.keys).filter(|(_, key)| **key != 0);
        keys.map(move |(idx, key)| KeyedEvent {
            position: (record.seq, idx),
            account_id: AccountId(Uuid::from_u128(2)),
            event_id: id(*key),
            stored_ms: record.stored_ms,
        })
    })
}

fn question(remembered: &Remembered, records: &[Record]) -> Option<Question> {
    remembered.question(records.first()?.seq, keyed(records))
}

fn seal(remembered: &mut Remembered, records: &[Record], sealed_ms: i64) {
    remembered.sealed(keyed(records).map(|event| event.event_id), sealed_ms);
}

fn remembered(ids_max: usize, now_ms: i64) -> Remembered {
    Remembered::new(WINDOW, ids_max, now_ms)
}

#[test]
fn events_without_a_key_are_neither_asked_for_nor_dropped() {
    let records = [record(1, 0, &[0, 0]), record(2, 0, &[0])];
    let mut remembered = remembered(100, 0);
    assert_eq!(question(&remembered, &records), None);
    assert_eq!(remembered.dropped(keyed(&records), &SealedAt::new()), []);
    seal(&mut remembered, &records, 0);
    assert!(remembered.at.is_empty());
}

#[test]
fn the_first_event_counts_unless_it_was_stored_before() {
    let records = [record(3, 0, &[1, 0, 1]), record(5, 0, &[2, 1, 3])];
    let remembered = remembered(100, 0);
    let question = question(&remembered, &records).unwrap();
    assert_eq!(
        question.ids.iter().map(|(_, id)| *id).collect::<Vec<_>>(),
        [id(1), id(2), id(3)]
    );
    assert_eq!((question.first, question.since_ms), (3, -25 * HOUR));
    let stored = SealedAt::from([(id(2), -HOUR)]);
    assert_eq!(remembered.dropped(keyed(&records), &stored), [(3, 2), (5, 0), (5, 1)]);
}

#[test]
fn ids_sealed_here_need_no_question_within_the_window() {
    let start = 1_000 * HOUR;
    let mut remembered = remembered(100, start);
    let first = [record(1, start, &[1])];
    assert!(question(&remembered, &first).is_some());
    seal(&mut remembered, &first, start);
    let dropped =
        |remembered: &Remembered, stored_ms| remembered.dropped(keyed(&[record(2, stored_ms, &[1])]), &SealedAt::new());
    assert_eq!(question(&remembered, &[record(2, start + HOUR, &[1])]), None);
    assert_eq!(dropped(&remembered, start + 25 * HOUR), [(2, 0)]);
    assert_eq!(dropped(&remembered, start + 25 * HOUR + 1), []);
    // When everything that others sealed is older than the window, there is no question.
    let other = |hours: i64| [record(3, start + hours * HOUR, &[2])];
    assert!(question(&remembered, &other(26)).is_some());
    assert_eq!(question(&remembered, &other(27)), None);
}

#[test]
fn forgotten_ids_are_asked_for_again() {
    let start = 1_000 * HOUR;
    let later = start + 100 * HOUR;
    let mut remembered = remembered(2, start);
    for (n, key) in [1, 2, 3].into_iter().enumerate() {
        let at = later + i64::try_from(n).unwrap();
        let records = [record(n as u64, at, &[key])];
        assert_eq!(question(&remembered, &records).is_some(), n > 2);
        seal(&mut remembered, &records, at);
    }
    assert_eq!((remembered.at.len(), remembered.order.len()), (2, 2));
    let asked = question(&remembered, &[record(9, later + 3, &[1, 3])]).unwrap();
    assert_eq!(asked.ids.len(), 1, "3 is remembered");
    assert_eq!(question(&remembered, &[record(9, later + 26 * HOUR, &[4])]), None);
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
    fn one_event_of_a_key_counts_in_each_window(steps in prop::collection::vec(step(), 1..80), ids_max in 0..20usize) {
        let (mut now, mut seq) = (1_000 * HOUR, 0);
        let mut owner = remembered(ids_max, now);
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
                Step::TakeOver => owner = remembered(ids_max, now),
                Step::Seal => {
                    let known = question(&owner, &records).map_or_else(SealedAt::new, |question| {
                        let asked = |id: &EventId| question.ids.iter().any(|(_, of)| of == id);
                        let found = rows.iter().filter(|(id, at)| asked(id) && *at >= question.since_ms);
                        found.copied().collect()
                    });
                    let dropped = owner.dropped(keyed(&records), &known);
                    let mut here = HashSet::new();
                    let mut kept = Vec::new();
                    for event in keyed(&records) {
                        let earlier = rows.iter().any(|(id, at)| {
                            *id == event.event_id && *at >= event.stored_ms - 25 * HOUR
                        });
                        let is_duplicate = earlier || !here.insert(event.event_id);
                        prop_assert_eq!(dropped.binary_search(&event.position).is_ok(), is_duplicate);
                        if !is_duplicate {
                            kept.push(event.event_id);
                        }
                    }
                    owner.sealed(kept.iter().copied(), now);
                    rows.extend(kept.iter().map(|id| (*id, now)));
                    records.clear();
                    prop_assert!(owner.order.len() <= ids_max && owner.at.len() <= ids_max);
                }
            }
        }
    }
}

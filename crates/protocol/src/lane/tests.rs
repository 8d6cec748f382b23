//! Tests the lane against a NATS that delays, repeats and loses messages, and against other processes that fence.

use std::collections::HashSet;

use proptest::prelude::*;
use schema::{BatchId, LaneRecord, RunId};
use uuid::Uuid;

use super::*;
use crate::spool_state::{Spooled, stored_before};

/// The lane's subject in the stream, and the messages in flight to it. Sequences belong to the stream, so they have gaps.
#[derive(Default)]
struct Nats {
    log: Vec<(u64, Record)>,
    sequence: u64,
    wire: Vec<(Message, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    Ours(Message),
    Fence(BatchId),
}

/// How the adversary treats one attempt.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Delivered and answered.
    Delivered,
    /// Delivered, but the answer is lost.
    AnswerLost,
    /// In flight. It may arrive at any later time, or more than once, or never.
    Delayed,
    /// Refused because the stream is full, and the answer arrives.
    Refused,
    /// Refused, but the answer is lost.
    RefusalLost,
    /// It is never sent.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Move {
    fate: Fate,
    /// One of the messages in flight arrives before the attempt, and stays in flight to arrive again.
    lands: Option<prop::sample::Index>,
    fence: bool,
    /// Other lanes write to the stream.
    gap: u8,
}

impl Nats {
    fn last(&self) -> u64 {
        self.log.last().map_or(0, |(sequence, _)| *sequence)
    }

    fn append(&mut self, record: Record) -> u64 {
        self.sequence += 1;
        self.log.push((self.sequence, record));
        self.sequence
    }

    fn deliver(&mut self, message: Message, expected: u64) -> AttemptOutcome {
        if expected == self.last() {
            AttemptOutcome::Stored {
                sequence: self.append(Record::Ours(message)),
            }
        } else {
            AttemptOutcome::WrongLast
        }
    }

    /// Fences the lane: reads the last batch, appends under the last sequence.
    fn fence(&mut self) {
        let last_batch = match self.log.last() {
            Some((_, Record::Ours(Message::Batch(batch)))) => *batch,
            Some((_, Record::Fence(_) | Record::Ours(Message::Close))) => return,
            Some((_, Record::Ours(Message::Open))) | None => BatchId::NIL,
        };
        self.append(Record::Fence(last_batch));
    }

    fn attempt(&mut self, message: Message, expected: u64, step: Move) -> AttemptOutcome {
        self.sequence += u64::from(step.gap);
        if let (Some(index), false) = (step.lands, self.wire.is_empty()) {
            let (message, expected) = self.wire[index.index(self.wire.len())];
            self.deliver(message, expected);
        }
        if step.fence {
            self.fence();
        }
        match step.fate {
            Fate::Delivered => self.deliver(message, expected),
            Fate::AnswerLost => {
                self.deliver(message, expected);
                AttemptOutcome::Unclear
            }
            Fate::Delayed => {
                self.wire.push((message, expected));
                AttemptOutcome::Unclear
            }
            // NATS checks the expected sequence first.
            Fate::Refused if expected == self.last() => AttemptOutcome::Refused,
            Fate::Refused => AttemptOutcome::WrongLast,
            Fate::RefusalLost | Fate::Lost => AttemptOutcome::Unclear,
        }
    }

    fn last_record(&self) -> LastRecord {
        match self.log.last() {
            None => LastRecord::None,
            Some((sequence, record)) => LastRecord::At {
                sequence: *sequence,
                record: match *record {
                    Record::Ours(message) => Seen::Ours(message),
                    Record::Fence(last_batch) => Seen::Fence { last_batch },
                },
            },
        }
    }

    fn holds(&self, batch: BatchId) -> usize {
        let is_it = |(_, record): &&(u64, Record)| *record == Record::Ours(Message::Batch(batch));
        self.log.iter().filter(is_it).count()
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Delivered),
        2 => Just(Fate::AnswerLost),
        3 => Just(Fate::Delayed),
        2 => Just(Fate::Refused),
        1 => Just(Fate::RefusalLost),
        1 => Just(Fate::Lost),
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = (
        fate(),
        any::<Option<prop::sample::Index>>(),
        prop::bool::weighted(0.03),
        0u8..3,
    )
        .prop_map(|(fate, lands, fence, gap)| Move {
            fate,
            lands,
            fence,
            gap,
        });
    prop::collection::vec(one, 1..120)
}

fn id(n: u128) -> BatchId {
    BatchId(Uuid::from_u128(n))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn outcomes_are_final_and_nothing_is_stored_twice(moves in moves()) {
        let (mut nats, mut lane) = (Nats::default(), Lane::new());
        // After the adversary has made its moves, everything works again.
        let calm = Move { fate: Fate::Delivered, lands: None, fence: false, gap: 0 };
        let mut moves = moves.into_iter().chain(std::iter::repeat(calm));
        let mut outcomes = Vec::new();
        let mut batches = 0u128;
        for message in std::iter::once(Message::Open)
            .chain((1..=12).map(|n| Message::Batch(id(n))))
            .chain([Message::Close])
        {
            if lane.end().is_some() {
                break;
            }
            batches += 1;
            let mut next = lane.begin(message, id(1_000 + batches));
            let mut steps = 0;
            let outcome = loop {
                steps += 1;
                prop_assert!(steps < 400, "{message:?} has no end");
                next = match next {
                    Next::Publish { message, expected } => {
                        let step = moves.next().unwrap_or(calm);
                        lane.attempted(nats.attempt(message, expected, step))
                    }
                    Next::Read => lane.read(nats.last_record()),
                    Next::Done(outcome) => break outcome,
                };
            };
            outcomes.push((message, outcome));
        }
        // All messages still in flight arrive now, twice, in both orders.
        for (message, expected) in nats.wire.clone().into_iter().chain(nats.wire.clone().into_iter().rev()) {
            nats.deliver(message, expected);
        }
        prop_assert!(!matches!(lane.end(), Some(End::Failed(_))), "{:?}", lane.end());
        for (message, outcome) in outcomes {
            let Message::Batch(batch) = message else { continue };
            match outcome {
                MessageOutcome::Stored => prop_assert_eq!(nats.holds(batch), 1),
                MessageOutcome::NotStored => prop_assert_eq!(nats.holds(batch), 0),
                MessageOutcome::Unknown => prop_assert!(false, "nothing impossible happened"),
            }
        }
        let stored: Vec<_> = nats.log.iter().map(|(_, record)| format!("{record:?}")).collect();
        prop_assert_eq!(stored.iter().collect::<HashSet<_>>().len(), stored.len(), "twice: {:?}", stored);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Batches are acknowledged from the spool while the first of them is in flight. The process dies and resumes several
    /// times, while its old attempts still arrive. In the end each batch is stored once, in order.
    #[test]
    fn kept_batches_are_stored_once_and_in_order_despite_crashes(moves in moves(), kept_after in 0usize..6, deaths in prop::collection::vec(1usize..9, 0..4)) {
        let (mut nats, mut lane) = (Nats::default(), Lane::new());
        let calm = Move { fate: Fate::Delivered, lands: None, fence: false, gap: 0 };
        let mut moves = moves.into_iter().map(|step| Move { fence: false, ..step }).chain(std::iter::repeat(calm));
        let mut step = |lane: &mut Lane, nats: &mut Nats, next: Next| match next {
            Next::Publish { message, expected } => lane.attempted(nats.attempt(message, expected, moves.next().unwrap_or(calm))),
            Next::Read => lane.read(nats.last_record()),
            Next::Done(_) => next,
        };
        let mut next = lane.begin(Message::Open, id(999));
        while !matches!(next, Next::Done(_)) {
            next = step(&mut lane, &mut nats, next);
        }
        // The first batch is sent like any other. It is spooled when it has had no outcome for some steps.
        let spool: Vec<Spooled> = (1..=6).map(|n| Spooled { batch: id(n), empty: if n == 1 { id(1_001) } else { BatchId::NIL }, expected: if n == 1 { lane.last().0 } else { 0 } }).collect();
        next = lane.begin(Message::Batch(id(1)), id(1_001));
        for _ in 0..kept_after {
            next = step(&mut lane, &mut nats, next);
        }
        lane.keep();
        if next == Next::Done(MessageOutcome::Stored) || next == Next::Done(MessageOutcome::NotStored) {
            // It was not spooled, so there is nothing to check here.
            return Ok(());
        }
        let mut done = 0;
        let mut deaths = deaths.into_iter();
        let mut left = deaths.next();
        let mut steps = 0;
        while done < spool.len() {
            steps += 1;
            prop_assert!(steps < 2_000, "it has no end");
            if left == Some(0) {
                // Its attempt in flight may be anywhere.
                if let Next::Publish { message, expected } = next {
                    nats.wire.push((message, expected));
                }
                left = deaths.next();
                lane = Lane::resume(nats.last_record()).unwrap();
                done = stored_before(&lane, &spool).unwrap();
                next = Next::Done(MessageOutcome::NotStored);
                continue;
            }
            left = left.map(|left| left - 1);
            next = match next {
                Next::Done(MessageOutcome::Stored) => {
                    done += 1;
                    Next::Done(MessageOutcome::NotStored)
                }
                Next::Done(MessageOutcome::Unknown) => return Err(TestCaseError::fail(format!("{:?}", lane.end()))),
                Next::Done(MessageOutcome::NotStored) => lane.begin_kept(spool[done].batch, spool[done].empty),
                under_way => step(&mut lane, &mut nats, under_way),
            };
        }
        for (message, expected) in nats.wire.clone() {
            nats.deliver(message, expected);
        }
        let stored: Vec<BatchId> = nats.log.iter().filter_map(|(_, record)| match record {
            Record::Ours(Message::Batch(batch)) if *batch != id(1_001) => Some(*batch),
            _ => None,
        }).collect();
        prop_assert_eq!(stored, spool.iter().map(|spooled| spooled.batch).collect::<Vec<_>>());
    }
}

/// An open lane whose open record has sequence 5.
fn open() -> Lane {
    let mut lane = Lane::new();
    assert_eq!(
        lane.begin(Message::Open, id(99)),
        Next::Publish {
            message: Message::Open,
            expected: 0
        }
    );
    assert_eq!(
        lane.attempted(AttemptOutcome::Stored { sequence: 5 }),
        Next::Done(MessageOutcome::Stored)
    );
    lane
}

fn sending(batch: u128, expected: u64) -> Next {
    Next::Publish {
        message: Message::Batch(id(batch)),
        expected,
    }
}

#[test]
fn a_refusal_is_final_if_every_attempt_was_answered() {
    let mut lane = open();
    assert_eq!(lane.begin(Message::Batch(id(1)), id(2)), sending(1, 5));
    assert_eq!(
        lane.attempted(AttemptOutcome::Refused),
        Next::Done(MessageOutcome::NotStored)
    );
    assert_eq!(lane.begin(Message::Batch(id(3)), id(4)), sending(3, 5));
}

#[test]
fn a_refusal_after_an_unclear_attempt_moves_the_lane_on_first() {
    let mut lane = open();
    lane.begin(Message::Batch(id(1)), id(2));
    assert_eq!(lane.attempted(AttemptOutcome::Unclear), Next::Read);
    let before = LastRecord::At {
        sequence: 5,
        record: Seen::Ours(Message::Open),
    };
    assert_eq!(lane.read(before), sending(1, 5));
    assert_eq!(lane.attempted(AttemptOutcome::Refused), sending(2, 5));
    assert_eq!(
        lane.attempted(AttemptOutcome::Stored { sequence: 9 }),
        Next::Done(MessageOutcome::NotStored)
    );
    assert_eq!(
        lane.begin(Message::Batch(id(3)), id(4)),
        sending(3, 9),
        "the first attempt expects 5 and can never be stored"
    );
}

#[test]
fn a_fence_shows_what_was_stored_before_it() {
    for (named, outcome) in [(1, MessageOutcome::Stored), (0, MessageOutcome::NotStored)] {
        let mut lane = open();
        lane.begin(Message::Batch(id(1)), id(2));
        assert_eq!(lane.attempted(AttemptOutcome::WrongLast), Next::Read);
        let fence = LastRecord::At {
            sequence: 8,
            record: Seen::Fence { last_batch: id(named) },
        };
        assert_eq!(lane.read(fence), Next::Done(outcome));
        assert_eq!(lane.end(), Some(End::Fenced));
    }
}

#[test]
fn impossible_records_fail_the_lane_and_claim_nothing() {
    let at = |sequence, record| LastRecord::At { sequence, record };
    for impossible in [
        LastRecord::None,
        at(4, Seen::Ours(Message::Open)),
        at(9, Seen::Ours(Message::Batch(id(7)))),
        at(9, Seen::Ours(Message::Batch(id(2)))),
        at(9, Seen::Ours(Message::Close)),
        at(9, Seen::Foreign),
        at(9, Seen::Unreadable),
        at(9, Seen::Fence { last_batch: id(7) }),
    ] {
        let mut lane = open();
        lane.begin(Message::Batch(id(1)), id(2));
        lane.attempted(AttemptOutcome::Unclear);
        assert_eq!(
            lane.read(impossible),
            Next::Done(MessageOutcome::Unknown),
            "{impossible:?}"
        );
        assert!(matches!(lane.end(), Some(End::Failed(_))));
    }
    let mut lane = open();
    lane.begin(Message::Batch(id(1)), id(2));
    assert_eq!(
        lane.attempted(AttemptOutcome::Stored { sequence: 5 }),
        Next::Done(MessageOutcome::Unknown)
    );
}

#[test]
fn records_are_distinguished() {
    let (run, other) = (RunId::new(), RunId::new());
    let batch = schema::lane_record::BatchBuilder::new(id(1)).finish(run);
    assert_eq!(Seen::decode(&batch, run), Seen::Ours(Message::Batch(id(1))));
    assert_eq!(Seen::decode(&batch, other), Seen::Foreign);
    let fence = LaneRecord::fence(run, id(1)).encode();
    assert_eq!(Seen::decode(&fence, run), Seen::Fence { last_batch: id(1) });
    assert_eq!(Seen::decode(&batch[..9], run), Seen::Unreadable);
}

//! What there is: Postgres, NATS, ClickHouse and the gateways, as far as units and events depend on them.

use std::collections::BTreeSet;

use schema::BatchId;
use uuid::Uuid;

use protocol::lane::{Answer, Lane, LastRecord, Message, Next, Seen};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// `quota_pool.granted_units` of the one pool.
    pub granted: i8,
    pub gateways: Vec<Gateway>,
    /// `gateway_runs`, each with its lane (one shard).
    pub runs: Vec<Run>,
    /// `quota_leases`, each with what its gateway has of it.
    pub leases: Vec<Lease>,
    /// Attempts to publish that may still reach NATS.
    pub wire: BTreeSet<Publish>,
    /// Transactions that give back, on their way to Postgres.
    pub give_backs: BTreeSet<GiveBack>,
    /// Requests so far; each is one event of one unit.
    pub requests: u8,
    /// Requests that were answered 2xx, a bit each.
    pub answered: u16,
    pub faults: Faults,
}

/// Faults that have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    pub crashes: u8,
    /// Runs of living gateways that were taken for dead.
    pub suspicions: u8,
    /// Publishes and lease transactions whose outcome was not told.
    pub unclear: u8,
    /// Publishes that NATS refused for want of room.
    pub refusals: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    pub alive: bool,
    /// The run that it takes leases for and publishes in.
    pub run: Option<u8>,
    /// A request that a fence refused, to be admitted again under the next run.
    pub anew: Option<u8>,
    /// `spooling` is committed: it acknowledges from its spool.
    pub spooling: bool,
    pub stopping: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    pub gateway: u8,
    pub row: RunRow,
    /// The lane's records. A record's sequence is its place, from 1.
    pub log: Vec<Record>,
    /// Records that the ingestor has stored.
    pub passed: u8,
    /// The lane's task, while its process lives.
    pub writer: Option<Writer>,
    /// The spool's file: it outlives the process.
    pub spool: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunRow {
    Live,
    Spooling,
    Fencing,
    Closed,
    Settled,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The code's own state machine.
    pub lane: Lane,
    pub sending: Option<Sending>,
    /// Of a run that a restarted process drains: nothing new is put into it.
    pub resumed: bool,
}

/// A message in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sending {
    pub what: What,
    pub next: Next,
    /// Its unit was given back before the outcome was known (a mutant does that).
    pub refunded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Open,
    /// Somebody waits for it, and its unit is reserved until the verdict.
    Request(Event),
    /// Acknowledged from the spool, and its unit is spent.
    Spooled(Event),
    Close,
}

/// One event, alone in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    pub request: u8,
    pub lease: u8,
    /// Admitted again after a fence refused it.
    pub anew: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    Open,
    Batch(Event),
    /// An empty batch, by its code: it moves the lane on.
    Empty(u8),
    /// With the code of the last batch before it.
    Fence(u8),
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Publish {
    pub run: u8,
    pub expected: u8,
    pub record: Record,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub run: u8,
    pub units: i8,
    /// What came back of it: given back, or settled.
    pub back: i8,
    pub row: LeaseRow,
    pub local: Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseRow {
    Live,
    Returned,
    Settled,
}

/// What the gateway has of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    /// Nothing: dropped, or returned.
    None,
    Open {
        unspent: i8,
    },
    /// Closed; `told` was sent to Postgres already.
    Closing {
        unspent: i8,
        told: i8,
    },
    /// The grant's answer was lost: all of it is owed, if there is any.
    Unknown,
}

/// An absolute total. `last`: no reservation remains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GiveBack {
    pub lease: u8,
    pub total: i8,
    pub last: bool,
}

impl GiveBack {
    /// Everything that the lease has.
    pub const ALL: i8 = i8::MAX;
}

impl State {
    pub fn new(gateways: u8) -> Self {
        let runs = (0..gateways).map(|gateway| Run {
            log: vec![Record::Open],
            writer: Some(Writer::behind(1, false)),
            ..Run::new(gateway)
        });
        let gateways = (0..gateways).map(|run| Gateway {
            alive: true,
            run: Some(run),
            anew: None,
            spooling: false,
            stopping: false,
        });
        Self {
            granted: 0,
            gateways: gateways.collect(),
            runs: runs.collect(),
            leases: Vec::new(),
            wire: BTreeSet::new(),
            give_backs: BTreeSet::new(),
            requests: 0,
            answered: 0,
            faults: Faults::default(),
        }
    }

    /// All events in all lanes.
    pub fn recorded(&self) -> impl Iterator<Item = Event> + '_ {
        self.runs
            .iter()
            .flat_map(|run| run.log.iter().filter_map(Record::event))
    }

    /// Of those, what the ingestor has put into ClickHouse.
    pub fn stored(&self) -> impl Iterator<Item = Event> + '_ {
        let passed = |run: &Run| usize::from(run.passed);
        self.runs
            .iter()
            .flat_map(move |run| run.log[..passed(run)].iter().filter_map(Record::event))
    }

    /// Events in spools that are not in their lane.
    pub fn spooled(&self) -> impl Iterator<Item = (&Run, Event)> {
        self.runs.iter().flat_map(|run| {
            let drained = |event: &Event| run.log.contains(&Record::Batch(*event));
            let waiting = run.spool.iter().filter(move |event| !drained(event));
            waiting.map(move |event| (run, *event))
        })
    }

    /// Requests under way that hold a unit of this lease.
    pub fn reservations(&self, lease: u8) -> usize {
        let sending = self.runs.iter().filter_map(|run| run.writer.as_ref()?.sending);
        sending
            .filter(|sending| matches!(sending.what, What::Request(event) if event.lease == lease))
            .count()
    }

    pub fn is_answered(&self, request: u8) -> bool {
        self.answered & (1 << request) != 0
    }
}

impl Run {
    pub fn new(gateway: u8) -> Self {
        Self {
            gateway,
            row: RunRow::Live,
            log: Vec::new(),
            passed: 0,
            writer: None,
            spool: Vec::new(),
        }
    }

    /// Nothing is ever stored behind its last record.
    pub fn is_ended(&self) -> bool {
        matches!(self.log.last(), Some(Record::Fence(_) | Record::Close))
    }

    /// The code of its last batch, as a fence names it.
    pub fn last_batch(&self) -> u8 {
        match self.log.last() {
            Some(Record::Batch(event)) => event.code(),
            Some(Record::Empty(code)) => *code,
            _ => 0,
        }
    }

    /// What a look at the lane's last record finds.
    pub fn last_record(&self) -> LastRecord {
        let Some(record) = self.log.last() else {
            return LastRecord::None;
        };
        LastRecord::At {
            sequence: self.log.len() as u64,
            record: match record {
                Record::Open => Seen::Ours(Message::Open),
                Record::Batch(event) => Seen::Ours(Message::Batch(batch(event.code()))),
                Record::Empty(code) => Seen::Ours(Message::Batch(batch(*code))),
                Record::Fence(last) => Seen::Fence {
                    last_batch: batch(*last),
                },
                Record::Close => Seen::Ours(Message::Close),
            },
        }
    }
}

impl Writer {
    /// Of a lane whose last record, of our own, has this sequence.
    pub fn behind(sequence: u64, resumed: bool) -> Self {
        let mut lane = Lane::new();
        lane.begin(Message::Open, batch(0));
        lane.answered(Answer::Stored { sequence });
        Self {
            lane,
            sending: None,
            resumed,
        }
    }

    /// Of a lane that is not open yet.
    pub fn opening() -> Self {
        let mut writer = Self {
            lane: Lane::new(),
            sending: None,
            resumed: false,
        };
        writer.begin(What::Open);
        writer
    }

    /// Nothing is in flight and the lane goes on.
    pub fn is_idle(&self) -> bool {
        self.sending.is_none() && self.lane.end().is_none()
    }

    pub fn begin(&mut self, what: What) {
        let (message, empty) = match what {
            What::Open => (Message::Open, 0),
            What::Close => (Message::Close, 0),
            What::Request(event) | What::Spooled(event) => (Message::Batch(batch(event.code())), event.empty_code()),
        };
        let next = self.lane.begin(message, batch(empty));
        self.sending = Some(Sending {
            what,
            next,
            refunded: false,
        });
    }
}

impl What {
    pub fn event(&self) -> Option<Event> {
        match self {
            Self::Request(event) | Self::Spooled(event) => Some(*event),
            Self::Open | Self::Close => None,
        }
    }

    /// The record that goes out for `message`: its own, or the empty batch in its place.
    pub fn record(&self, message: Message) -> Record {
        match (message, self.event()) {
            (Message::Open, _) => Record::Open,
            (Message::Close, _) => Record::Close,
            (Message::Batch(id), Some(event)) if id == batch(event.code()) => Record::Batch(event),
            (Message::Batch(id), _) => Record::Empty(id.0.as_u128() as u8),
        }
    }
}

impl Event {
    /// Batch ids are small numbers here.
    pub fn code(&self) -> u8 {
        1 + 2 * self.request + u8::from(self.anew)
    }

    /// Of the empty batch that takes its place.
    pub fn empty_code(&self) -> u8 {
        100 + self.code()
    }
}

impl Record {
    pub fn event(&self) -> Option<Event> {
        match self {
            Self::Batch(event) => Some(*event),
            _ => None,
        }
    }
}

fn batch(code: u8) -> BatchId {
    BatchId(Uuid::from_u128(u128::from(code)))
}

//! What there is: Postgres, NATS, ClickHouse and the gateways, as far as units and events depend on them.

use std::collections::BTreeSet;

use protocol::{
    give_back::{LeaseRow, LeaseState, Total},
    lane::{Answer, Lane, LastRecord, Message, Next, Seen},
    lease::{self, Snapshot},
    run::RunState,
    spool_state,
};
use schema::BatchId;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// `quota_pool.granted_units` of the one pool.
    pub granted: i64,
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
    pub row: RunState,
    /// The lane's records. A record's sequence is its place, from 1.
    pub log: Vec<Record>,
    /// Records that the ingestor has stored.
    pub passed: u8,
    /// The lane's task, while its process lives.
    pub writer: Option<Writer>,
    /// The spool's file: it outlives the process.
    pub spool: Vec<Spooled>,
}

/// One event in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spooled {
    pub event: Event,
    /// It was in flight when the spooling began: the lane's last sequence then. Its empty batch may have been sent.
    pub in_flight: Option<u8>,
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
    pub row: LeaseRow,
    pub local: Local,
}

/// What the gateway has of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    /// Nothing: dropped, or returned.
    None,
    /// The code's own lease, between two steps. Units `told` were sent to PostgreSQL already.
    Held { lease: Snapshot, told: i64 },
    /// The grant's answer was lost: all of it is owed, if there is any.
    Unknown,
}

/// A total on its way to PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GiveBack {
    pub lease: u8,
    pub total: Total,
}

impl Lease {
    /// The gateway's lease takes a step; nothing happens where the gateway has dropped it.
    pub fn step<T>(&mut self, step: impl FnOnce(&lease::Lease) -> T) -> Option<T> {
        let Local::Held { lease, .. } = &mut self.local else {
            return None;
        };
        let held = lease::Lease::resume(self.row.units, *lease);
        let result = step(&held);
        *lease = held.snapshot();
        Some(result)
    }

    /// Units that the gateway can reserve.
    pub fn left(&self) -> i64 {
        match self.local {
            Local::Held { lease, .. } => lease::Lease::resume(self.row.units, lease).left(),
            Local::None | Local::Unknown => 0,
        }
    }

    /// The gateway holds it, and requests can still spend from it.
    pub fn is_open(&self) -> bool {
        matches!(self.local, Local::Held { lease, .. } if !lease.closed)
    }
}

impl Spooled {
    /// As the spool's log has it.
    pub fn batch(&self) -> spool_state::Spooled {
        spool_state::Spooled {
            batch: batch(self.event.code()),
            empty: self.empty(),
            expected: self.in_flight.map_or(0, u64::from),
        }
    }

    fn empty(&self) -> BatchId {
        match self.in_flight {
            Some(_) => batch(self.event.empty_code()),
            None => BatchId::NIL,
        }
    }
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
            let drained = |spooled: &Spooled| run.log.contains(&Record::Batch(spooled.event));
            let waiting = run.spool.iter().filter(move |spooled| !drained(spooled));
            waiting.map(move |spooled| (run, spooled.event))
        })
    }

    /// Requests under way that hold a unit of this lease.
    pub fn reservations(&self, lease: u8) -> usize {
        let sending = self.runs.iter().filter_map(|run| run.writer.as_ref()?.sending);
        sending
            .filter(|sending| matches!(sending.what, What::Request(event) if event.lease == lease))
            .count()
    }

    /// The run has a live lease.
    pub fn holds_leases(&self, run: u8) -> bool {
        let is_held = |lease: &Lease| lease.run == run && lease.row.state == LeaseState::Live;
        self.leases.iter().any(is_held)
    }

    pub fn is_answered(&self, request: u8) -> bool {
        self.answered & (1 << request) != 0
    }
}

impl Run {
    pub fn new(gateway: u8) -> Self {
        Self {
            gateway,
            row: RunState::Live,
            log: Vec::new(),
            passed: 0,
            writer: None,
            spool: Vec::new(),
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
        self.send(what, next);
    }

    /// A batch of the spool goes out. A lane that lived on would know if the empty batch were stored.
    pub fn drain(&mut self, first: Spooled) {
        let empty = if self.resumed { first.empty() } else { BatchId::NIL };
        let next = self.lane.begin_kept(batch(first.event.code()), empty);
        self.send(What::Spooled(first.event), next);
    }

    fn send(&mut self, what: What, next: Next) {
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

//! The state of Postgres, NATS, ClickHouse and the gateways, as far as units and events depend on it.

use std::collections::BTreeSet;

use protocol::{
    give_back::{LeaseRow, LeaseState, Total},
    lane::{AttemptOutcome, Lane, LastRecord, Message, Next, Seen},
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
    /// `quota_leases`, each with the gateway's copy.
    pub leases: Vec<Lease>,
    /// Attempts to publish that may still reach NATS.
    pub wire: BTreeSet<Publish>,
    /// Give-back transactions that are on their way to Postgres.
    pub give_backs: BTreeSet<GiveBack>,
    /// Number of requests so far. Each is one event of one unit.
    pub requests: u8,
    /// Requests that were answered 2xx, one bit each.
    pub answered: u16,
    pub faults: Faults,
}

/// The faults so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    pub crashes: u8,
    /// Runs of living gateways that were presumed dead.
    pub suspicions: u8,
    /// Publishes and lease transactions whose outcome is unknown to their sender.
    pub unclear: u8,
    /// Publishes that NATS refused because the stream is full.
    pub refusals: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    pub alive: bool,
    /// The run in which it takes leases and publishes.
    pub run: Option<u8>,
    /// A request that a fence refused, to be admitted again under the next run.
    pub to_readmit: Option<u8>,
    /// `spooling` is committed: the gateway acknowledges requests from its spool.
    pub spooling: bool,
    pub stopping: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    pub gateway: u8,
    pub row: RunState,
    /// The lane's records. The sequence of a record is its position, counted from 1.
    pub log: Vec<Record>,
    /// Records that the ingestor has stored.
    pub passed: u8,
    /// The lane's task, while its process is alive.
    pub writer: Option<Writer>,
    /// The spool file. It outlives the process.
    pub spool: Vec<Spooled>,
}

/// One event in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spooled {
    pub event: Event,
    /// If the event was in flight when spooling began: the lane's last sequence at that time. The empty batch may have been
    /// sent for it.
    pub in_flight: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The state machine of the product.
    pub lane: Lane,
    pub sending: Option<Sending>,
    /// The writer belongs to a restarted process that drains the spool, and accepts nothing new.
    pub resumed: bool,
}

/// A message in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sending {
    pub what: What,
    pub next: Next,
    /// Its unit was given back before the outcome was known (only in a mutant).
    pub refunded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Open,
    /// A client waits for the request, and its unit is reserved until the outcome is known.
    Request(Event),
    /// Acknowledged from the spool, with its unit spent.
    Spooled(Event),
    Close,
}

/// One event, alone in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    pub request: u8,
    pub lease: u8,
    /// Admitted again after a fence refused it.
    pub readmitted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    Open,
    Batch(Event),
    /// An empty batch, identified by its code. It advances the lane.
    Empty(u8),
    /// A fence, with the code of the last batch before it.
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

/// The gateway's copy of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    /// Nothing: dropped, or returned.
    None,
    /// The lease of the product, between two steps. The units in `sent` were already sent to PostgreSQL.
    Held { lease: Snapshot, sent: i64 },
    /// The response to the grant was lost. If the lease exists, all of its units must be returned.
    Unknown,
}

/// A total on its way to PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GiveBack {
    pub lease: u8,
    pub total: Total,
}

impl Lease {
    /// Runs a step of the gateway's lease. Does nothing if the gateway has dropped the lease.
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

    /// The gateway holds the lease, and requests can still spend from it.
    pub fn is_open(&self) -> bool {
        matches!(self.local, Local::Held { lease, .. } if !lease.closed)
    }
}

impl Spooled {
    /// The entry in the spool's log.
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
            to_readmit: None,
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

    /// The recorded events that the ingestor has stored in ClickHouse.
    pub fn stored(&self) -> impl Iterator<Item = Event> + '_ {
        let passed = |run: &Run| usize::from(run.passed);
        self.runs
            .iter()
            .flat_map(move |run| run.log[..passed(run)].iter().filter_map(Record::event))
    }

    /// Events in spools that are not in their lane yet.
    pub fn spooled(&self) -> impl Iterator<Item = (&Run, Event)> {
        self.runs.iter().flat_map(|run| {
            let drained = |spooled: &Spooled| run.log.contains(&Record::Batch(spooled.event));
            let waiting = run.spool.iter().filter(move |spooled| !drained(spooled));
            waiting.map(move |spooled| (run, spooled.event))
        })
    }

    /// Requests in progress that hold a unit of this lease.
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

    /// The result of reading the lane's last record.
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
    /// The writer of a lane whose last record, written by itself, has this sequence.
    pub fn behind(sequence: u64, resumed: bool) -> Self {
        let mut lane = Lane::new();
        lane.begin(Message::Open, batch(0));
        lane.attempted(AttemptOutcome::Stored { sequence });
        Self {
            lane,
            sending: None,
            resumed,
        }
    }

    /// The writer of a lane that is not open yet.
    pub fn opening() -> Self {
        let mut writer = Self {
            lane: Lane::new(),
            sending: None,
            resumed: false,
        };
        writer.begin(What::Open);
        writer
    }

    /// Nothing is in flight, and the lane has not ended.
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

    /// Sends a batch of the spool. A lane that was not restarted would know whether the empty batch is stored.
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

    /// The record that is sent for `message`: its own, or the empty batch in its place.
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
    /// The batch id. In the model, batch ids are small numbers.
    pub fn code(&self) -> u8 {
        1 + 2 * self.request + u8::from(self.readmitted)
    }

    /// The batch id of the empty batch that replaces this one.
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

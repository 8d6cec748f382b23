//! Which fault happens when. The plan is made from a seed before the run starts, so a run can be read and repeated. Pure.
//!
//! Faults are drawn from a shuffled deck that contains each of them. A long run has every fault several times, in any order and
//! combination. A short run has a sample.

use std::{fmt, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::proxy::Weather;

/// One of our services, numbered from 1 within its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Gateway(usize),
    Ingestor(usize),
    Billing(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Store {
    Nats,
    Postgres,
    ClickHouse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// `kill -9`, and a restart after the hold.
    Kill,
    /// SIGSTOP, and SIGCONT after the hold.
    Pause,
    /// SIGTERM, and a restart after the process has ended and the hold is over.
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Service(Part, Blow),
    Server(Store, Blow),
    Link(Part, Store, Weather),
    /// The link loses one direction. Then the service is killed while a write on this link is in progress.
    Torn(Part, Store, Weather),
    /// The stream cannot grow.
    StreamFull,
    /// The spool of this gateway is full while the gateway cannot reach NATS.
    SpoolFull(usize, Shortage),
    /// Moves the clock of this gateway by these milliseconds, and back after the hold.
    Clock(usize, i64),
    Stripe(StripeFault),
    /// A limit is changed: usually raised.
    Limit,
    PlanChange,
    Revocation,
}

/// Why a spool is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// It has reached its maximum size, `SPOOL_MAX_BYTES`.
    Allowance,
    /// The disk is full: no file grows past this many bytes, and the write that would exceed the size fails half way.
    Disk(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StripeFault {
    /// Calls fail before they do anything.
    Before,
    /// Calls take effect, and the response is lost.
    After,
    TooMany,
    Hangs,
    /// Webhooks arrive twice and shuffled, and some first attempts are lost.
    Webhooks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub at: Duration,
    pub fault: Fault,
    pub hold: Duration,
}

/// The parts of the system that can fail.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    pub gateways: usize,
    pub ingestors: usize,
    pub billing_workers: usize,
    /// After this time without a heartbeat, others presume a gateway dead.
    pub dead_after: Duration,
}

/// Names of faults, as in `--only` and in the report.
pub const KINDS: [&str; 16] = [
    "kill",
    "pause",
    "restart",
    "kill_server",
    "pause_server",
    "restart_server",
    "cut",
    "half_open",
    "slow",
    "before_write",
    "after_write",
    "torn",
    "full",
    "clock",
    "stripe",
    "business",
];

impl Fault {
    /// One of [`KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_, Blow::Kill) => "kill",
            Self::Service(_, Blow::Pause) => "pause",
            Self::Service(_, Blow::Restart) => "restart",
            Self::Server(_, Blow::Kill) => "kill_server",
            Self::Server(_, Blow::Pause) => "pause_server",
            Self::Server(_, Blow::Restart) => "restart_server",
            Self::Link(_, _, Weather::Clear | Weather::Cut) => "cut",
            Self::Link(_, _, Weather::HalfOpen) => "half_open",
            Self::Link(_, _, Weather::Slow(_)) => "slow",
            Self::Link(_, _, Weather::LosesRequests) => "before_write",
            Self::Link(_, _, Weather::LosesAnswers) => "after_write",
            Self::Torn(..) => "torn",
            Self::StreamFull | Self::SpoolFull(..) => "full",
            Self::Clock(..) => "clock",
            Self::Stripe(_) => "stripe",
            Self::Limit | Self::PlanChange | Self::Revocation => "business",
        }
    }
}

/// The steps of a run, in order. `only`: kinds of faults; empty: all.
pub fn plan(seed: u64, length: Duration, targets: &Targets, only: &[String]) -> Vec<Step> {
    let random = &mut StdRng::seed_from_u64(seed);
    let wanted = |fault: &Fault| only.is_empty() || only.iter().any(|kind| kind == fault.kind());
    let mut steps = Vec::new();
    let mut busy: Vec<(Fault, Duration)> = Vec::new();
    let mut deck: Vec<Fault> = Vec::new();
    let mut at = Duration::from_secs(3);
    while at < length {
        if deck.is_empty() {
            deck = new_deck(random, targets).into_iter().filter(wanted).collect();
            if deck.is_empty() {
                break;
            }
            deck.shuffle(random);
        }
        busy.retain(|(_, until)| *until > at);
        // Takes the first fault that does not collide with an active one. If there is none, time passes.
        let free = deck
            .iter()
            .position(|fault| busy.iter().all(|(other, _)| !collide(fault, other)));
        if let Some(n) = free {
            let fault = deck.remove(n);
            let hold = hold(&fault, random, targets).min(length.saturating_sub(at));
            busy.push((fault, at + hold + Duration::from_secs(2)));
            steps.push(Step { at, fault, hold });
        }
        at += between(random, 1_000, 3_000);
    }
    for (fault, every) in [
        (Fault::Limit, 900),
        (Fault::PlanChange, 5_000),
        (Fault::Revocation, 6_000),
    ] {
        let mut at = between(random, every / 2, every * 3 / 2);
        while wanted(&fault) && at < length {
            let hold = Duration::ZERO;
            steps.push(Step { at, fault, hold });
            at += between(random, every / 2, every * 3 / 2);
        }
    }
    steps.sort_by_key(|step| step.at);
    steps
}

/// The servers that a service is connected to.
pub fn links(part: Part) -> &'static [Store] {
    match part {
        Part::Gateway(_) => &[Store::Nats, Store::Postgres],
        Part::Ingestor(_) => &[Store::Nats, Store::ClickHouse],
        Part::Billing(_) => &[Store::Nats, Store::Postgres, Store::ClickHouse],
    }
}

impl Targets {
    pub fn parts(&self) -> Vec<Part> {
        let gateways = (1..=self.gateways).map(Part::Gateway);
        let ingestors = (1..=self.ingestors).map(Part::Ingestor);
        gateways
            .chain(ingestors)
            .chain((1..=self.billing_workers).map(Part::Billing))
            .collect()
    }
}

fn new_deck(random: &mut StdRng, targets: &Targets) -> Vec<Fault> {
    let mut deck = vec![Fault::StreamFull];
    for part in targets.parts() {
        deck.extend([Blow::Kill, Blow::Pause, Blow::Restart].map(|blow| Fault::Service(part, blow)));
        for store in links(part) {
            let slow = Weather::Slow(between(random, 20, 300));
            let weathers = [
                Weather::Cut,
                Weather::HalfOpen,
                slow,
                Weather::LosesRequests,
                Weather::LosesAnswers,
            ];
            let weather = weathers[random.random_range(0..weathers.len())];
            deck.push(Fault::Link(part, *store, weather));
        }
        let written = match part {
            Part::Gateway(_) => Store::Nats,
            Part::Ingestor(_) => Store::ClickHouse,
            Part::Billing(_) => Store::Postgres,
        };
        for weather in [Weather::LosesRequests, Weather::LosesAnswers] {
            deck.push(Fault::Torn(part, written, weather));
        }
        if let Part::Gateway(n) = part {
            let jump_ms = random.random_range(500..120_000) * [1, -1][random.random_range(0..2)];
            deck.push(Fault::Clock(n, jump_ms));
            // Most protocols involve units or events that a gateway holds, so gateways are killed more often.
            deck.push(Fault::Service(part, Blow::Kill));
            let room = [0, 64 << 10][random.random_range(0..2)];
            deck.extend([Shortage::Allowance, Shortage::Disk(room)].map(|shortage| Fault::SpoolFull(n, shortage)));
        }
        if let Part::Ingestor(_) = part {
            deck.push(Fault::Service(part, Blow::Kill));
        }
    }
    for store in [Store::Nats, Store::Postgres, Store::ClickHouse] {
        deck.extend([Blow::Kill, Blow::Pause, Blow::Restart].map(|blow| Fault::Server(store, blow)));
    }
    let stripe = [
        StripeFault::Before,
        StripeFault::After,
        StripeFault::TooMany,
        StripeFault::Hangs,
        StripeFault::Webhooks,
    ];
    deck.extend(stripe.map(Fault::Stripe));
    deck
}

fn hold(fault: &Fault, random: &mut StdRng, targets: &Targets) -> Duration {
    let dead_ms = u64::try_from(targets.dead_after.as_millis()).unwrap_or(u64::MAX);
    match fault {
        // Half of the pauses are long enough that others presume the service dead. Then it continues.
        Fault::Service(_, Blow::Pause) if random.random_bool(0.5) => between(random, dead_ms + 1_000, dead_ms + 6_000),
        Fault::Service(_, Blow::Pause) | Fault::Server(_, Blow::Pause) => between(random, 200, 4_000),
        Fault::Service(_, Blow::Kill) if random.random_bool(0.2) => between(random, dead_ms, dead_ms + 4_000),
        Fault::Service(..) | Fault::Server(..) => between(random, 50, 2_500),
        Fault::Link(_, _, Weather::HalfOpen) => between(random, 1_000, 12_000),
        Fault::Torn(..) => between(random, 300, 1_500),
        Fault::Link(..) => between(random, 300, 6_000),
        Fault::StreamFull | Fault::SpoolFull(..) => between(random, 1_000, 5_000),
        Fault::Clock(..) | Fault::Stripe(_) => between(random, 2_000, 8_000),
        Fault::Limit | Fault::PlanChange | Fault::Revocation => Duration::ZERO,
    }
}

/// A part has at most one fault of a kind at a time, and only one server fails at a time.
fn collide(one: &Fault, other: &Fault) -> bool {
    match (one, other) {
        (Fault::Service(a, _) | Fault::Torn(a, ..), Fault::Service(b, _) | Fault::Torn(b, ..)) => a == b,
        (Fault::Torn(a, b, _), Fault::Link(c, d, _)) | (Fault::Link(a, b, _), Fault::Torn(c, d, _)) => (a, b) == (c, d),
        (Fault::Server(..), Fault::Server(..)) => true,
        (Fault::Link(a, b, _), Fault::Link(c, d, _)) => (a, b) == (c, d),
        (Fault::StreamFull, Fault::StreamFull) => true,
        (Fault::StreamFull, Fault::Server(Store::Nats, _)) | (Fault::Server(Store::Nats, _), Fault::StreamFull) => true,
        (Fault::Clock(a, _), Fault::Clock(b, _)) => a == b,
        (Fault::Stripe(_), Fault::Stripe(_)) => true,
        (Fault::SpoolFull(..), Fault::SpoolFull(..)) => true,
        (Fault::SpoolFull(n, _), Fault::Link(part, Store::Nats, _) | Fault::Torn(part, Store::Nats, _))
        | (Fault::Link(part, Store::Nats, _) | Fault::Torn(part, Store::Nats, _), Fault::SpoolFull(n, _)) => {
            *part == Part::Gateway(*n)
        }
        _ => false,
    }
}

fn between(random: &mut StdRng, from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(random.random_range(from_ms..to_ms))
}

impl Part {
    /// The name of the service.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::Ingestor(_) => "ingestor",
            Self::Billing(_) => "billing-worker",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Gateway(n) | Self::Ingestor(n) | Self::Billing(n)) = self;
        write!(f, "{}-{n}", self.kind())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, hold) = (self.at.as_secs_f64(), self.hold.as_secs_f64());
        write!(
            f,
            "{at:7.2} s  {:<14} {:?} for {hold:.2} s",
            self.fault.kind(),
            self.fault
        )
    }
}

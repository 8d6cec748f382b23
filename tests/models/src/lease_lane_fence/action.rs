//! One step of one part. Between any two steps every other part may take any number of its own: a process that is stopped
//! (SIGSTOP) and goes on later is one that takes no step for a while, so pauses need no action of their own.

use std::fmt;

use protocol::give_back::Total;

use super::state::{GiveBack, Publish, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `gateway/src/leases/transaction.rs`, `execute`: one conditional grant, if the run's row is live.
    Acquire {
        gateway: u8,
        units: i64,
        answer: Told,
    },
    /// `gateway/src/metering.rs`, `admit` and `charge`: a unit (`lease.rs`, `try_spend`), then a message (`lane.rs`, `begin`).
    Admit {
        gateway: u8,
        lease: u8,
        anew: bool,
    },
    /// `crates/lane/src/task.rs`, `attempt`, then `lane.rs`, `answered`.
    Attempt {
        run: u8,
        fate: Fate,
    },
    /// `crates/lane/src/task.rs`, `last_record`, then `lane.rs`, `read`.
    Read {
        run: u8,
    },
    /// NATS takes or refuses an attempt whose writer does not wait for it any more.
    Lands(Publish),
    /// `gateway/src/counter.rs`, `close` and `work`: idle, shutdown, recall. Or more of a lease that was closed before.
    GiveBack {
        lease: u8,
    },
    /// A mutant's: the lease is closed only now.
    CloseLate {
        lease: u8,
    },
    /// `gateway/src/leases/transaction.rs`, `give_back`. `again`: its answer is lost, so it will be sent again.
    GiveBackLands {
        give_back: GiveBack,
        again: bool,
    },
    /// `gateway/src/app.rs`, `keep`: the run is given up, every lease dropped, a new run registered, its lane being opened.
    Replace {
        gateway: u8,
    },
    Crash {
        gateway: u8,
    },
    /// A process starts again: with a new run, and if it finds a spool, with the run that the spool belongs to.
    Restart {
        gateway: u8,
    },
    /// `billing-worker/src/settle`: the heartbeat stood still, the row goes `live → fencing`.
    Suspect {
        run: u8,
    },
    /// `crates/lane/src/fence.rs`, `fence`. One step: it carries the sequence that it has read, so it lands right behind it.
    Fence {
        run: u8,
    },
    /// The ingestor has stored what the lane holds. Only of a run that is being ended does anybody ask for that.
    Store {
        run: u8,
    },
    /// `billing-worker/src/settle`: each lease's events are counted in ClickHouse, the rest goes back to the pool.
    Settle {
        run: u8,
    },
    /// `live → spooling`, one conditional update. The message in flight, if there is one, goes into the spool first.
    StartSpooling {
        gateway: u8,
    },
    /// A unit, then the spool's file, then the answer.
    Spool {
        gateway: u8,
        lease: u8,
    },
    /// The spool's first batch goes out through the lane.
    Drain {
        run: u8,
    },
    /// The spool is empty: `spooling → live`.
    EndSpooling {
        gateway: u8,
    },
    /// Nothing more is taken; leases are given back.
    Stop {
        gateway: u8,
    },
    /// The lane's close record goes out: of a gateway that stops, or of a spool that was drained.
    CloseLane {
        run: u8,
    },
    /// `crates/lane/src/run.rs`, `close`; a run that was resumed to drain its spool is left to be settled.
    CloseRun {
        run: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Told,
    /// It was done, and the answer is lost.
    NotTold,
}

/// What becomes of one attempt to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// The writer stops waiting. It may land at once (then only its answer is lost), later, or never.
    Delayed,
    Refused,
}

impl Action {
    /// A fault, or a choice of the clients'. Without any of these everything comes to rest with all units back.
    pub fn is_fault_or_choice(&self) -> bool {
        match self {
            Self::Acquire { .. } | Self::Admit { .. } | Self::Spool { .. } | Self::StartSpooling { .. } => true,
            Self::Crash { .. } => true,
            Self::Attempt { fate, .. } => *fate != Fate::Answered,
            Self::GiveBackLands { again, .. } => *again,
            _ => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gateway = |n: &u8| char::from(b'A' + n);
        match self {
            Self::Acquire {
                gateway: g,
                units,
                answer,
            } => {
                let lost = if *answer == Told::NotTold {
                    ", and the answer is lost"
                } else {
                    ""
                };
                write!(f, "gateway {} is granted a lease of {units}{lost}", gateway(g))
            }
            Self::Admit {
                gateway: g,
                lease,
                anew: false,
            } => write!(f, "gateway {} admits a request from lease {lease}", gateway(g)),
            Self::Admit { gateway: g, lease, .. } => {
                write!(
                    f,
                    "gateway {} admits a refused request again from lease {lease}",
                    gateway(g)
                )
            }
            Self::Attempt { run, fate } => write!(
                f,
                "the writer of run {run} publishes: {}",
                match fate {
                    Fate::Answered => "it is answered",
                    Fate::Delayed => "it is delayed, the writer stops waiting",
                    Fate::Refused => "NATS has no room",
                }
            ),
            Self::Read { run } => write!(f, "the writer of run {run} reads the lane's last record"),
            Self::Lands(publish) => {
                let what = match publish.record {
                    Record::Batch(event) => format!("request {} (lease {})", event.request, event.lease),
                    other => format!("{other:?}"),
                };
                write!(
                    f,
                    "a delayed publish of run {} reaches NATS: {what}, expecting sequence {}",
                    publish.run, publish.expected
                )
            }
            Self::GiveBack { lease } => write!(f, "lease {lease} is closed, and what is unspent is given back"),
            Self::CloseLate { lease } => write!(f, "lease {lease} is closed only now"),
            Self::GiveBackLands { give_back, again } => {
                let all = match give_back.total {
                    Total::ALL => "all".to_owned(),
                    total => format!("{} in all", total.units),
                };
                let last = if give_back.total.last { ", the last" } else { "" };
                let lost = if *again { "; the answer is lost" } else { "" };
                write!(f, "Postgres takes {all} of lease {} back{last}{lost}", give_back.lease)
            }
            Self::Replace { gateway: g } => {
                write!(
                    f,
                    "gateway {} finds its run ended: it drops it and begins another",
                    gateway(g)
                )
            }
            Self::Crash { gateway: g } => write!(f, "gateway {} is killed", gateway(g)),
            Self::Restart { gateway: g } => write!(f, "gateway {} starts again", gateway(g)),
            Self::Suspect { run } => write!(f, "the worker takes run {run} for dead: its row says fencing"),
            Self::Fence { run } => write!(f, "the worker ends the lane of run {run}: a fence, if it has no end"),
            Self::Store { run } => write!(f, "the ingestor stores what the lane of run {run} holds"),
            Self::Settle { run } => write!(f, "the worker settles the leases of run {run}"),
            Self::StartSpooling { gateway: g } => write!(f, "gateway {} begins to spool", gateway(g)),
            Self::Spool { gateway: g, lease } => {
                write!(
                    f,
                    "gateway {} acknowledges a request from its spool (lease {lease})",
                    gateway(g)
                )
            }
            Self::Drain { run } => write!(f, "the spool of run {run} sends its first batch"),
            Self::EndSpooling { gateway: g } => write!(f, "gateway {} has drained its spool: live again", gateway(g)),
            Self::Stop { gateway: g } => write!(f, "gateway {} is told to stop", gateway(g)),
            Self::CloseLane { run } => write!(f, "the writer of run {run} begins to close the lane"),
            Self::CloseRun { run } => write!(f, "run {run} is closed"),
        }
    }
}

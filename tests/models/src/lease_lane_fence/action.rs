//! One step of one part. Between any two steps, every other part may take any number of steps. A process that is paused
//! (SIGSTOP) and continues later is a process that takes no step for a while, so pauses need no action.

use std::fmt;

use protocol::give_back::Total;

use super::state::{GiveBack, Publish, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `gateway/src/quota/leases/transaction.rs`, `execute`: one conditional grant, if the run's row is live.
    Acquire {
        gateway: u8,
        units: i64,
        response: GrantResponse,
    },
    /// `gateway/src/recording/recorder.rs`, `admit` and `charge`: reserves a unit ([`protocol::lease`], `try_spend`), then begins
    /// a message ([`protocol::lane`], `begin`).
    Admit {
        gateway: u8,
        lease: u8,
        again: bool,
    },
    /// `crates/lane/src/writer.rs`, `attempt`, then [`protocol::lane`], `attempted`.
    Attempt {
        run: u8,
        fate: Fate,
    },
    /// `crates/lane/src/writer.rs`, `last_record`, then [`protocol::lane`], `read`.
    Read {
        run: u8,
    },
    /// NATS accepts or refuses an attempt that its writer no longer waits for.
    Lands(Publish),
    /// `gateway/src/quota/counter.rs`, `close` and `work`: idle, shutdown, recall. Or returns more units of a lease that is already
    /// closed.
    GiveBack {
        lease: u8,
    },
    /// Only in a mutant: the lease is closed after its units were given back.
    CloseLate {
        lease: u8,
    },
    /// `gateway/src/quota/leases/transaction.rs`, `give_back`. `again`: the response is lost, so the request will be sent again.
    GiveBackLands {
        give_back: GiveBack,
        again: bool,
    },
    /// `gateway/src/app/keeper.rs`, `keep`: gives the run up, drops every lease, and registers a new run with a new lane.
    Replace {
        gateway: u8,
    },
    Crash {
        gateway: u8,
    },
    /// A process starts again with a new run. If it finds a spool, it also resumes the run of the spool.
    Restart {
        gateway: u8,
    },
    /// `billing-worker/src/runs/watch.rs`: the heartbeat has stopped, so the row changes from `live` to `fencing`.
    Suspect {
        run: u8,
    },
    /// `crates/lane/src/fence.rs`, `fence`. One step: the fence carries the sequence that was read, so it lands directly behind
    /// it.
    Fence {
        run: u8,
    },
    /// The ingestor has stored the records of the lane. This matters only for a run that is being ended.
    Store {
        run: u8,
    },
    /// `billing-worker/src/runs/work.rs`: counts each lease's events in ClickHouse and returns the remaining units to the pool.
    Settle {
        run: u8,
    },
    /// `live → spooling`, one conditional update. A message in flight is written to the spool first.
    StartSpooling {
        gateway: u8,
    },
    /// Spends a unit, writes to the spool file, then answers.
    Spool {
        gateway: u8,
        lease: u8,
    },
    /// The first batch of the spool is sent through the lane.
    Drain {
        run: u8,
    },
    /// The spool is empty: `spooling → live`.
    EndSpooling {
        gateway: u8,
    },
    /// No more requests are accepted; leases are given back.
    Stop {
        gateway: u8,
    },
    /// The lane's close record is sent, by a gateway that stops or after a spool was drained.
    CloseLane {
        run: u8,
    },
    /// `crates/lane/src/run.rs`, `close`. A run that was resumed to drain its spool is left to be settled.
    CloseRun {
        run: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantResponse {
    Received,
    /// The lease is granted, but the response is lost.
    Lost,
}

/// The fate of one attempt to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// The writer stops waiting. The record may land at once (then only its response is lost), later, or never.
    Delayed,
    Refused,
}

impl Action {
    /// A fault, or a choice of the clients. Without these actions, everything comes to rest and all units are returned.
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
                response,
            } => {
                let lost = if *response == GrantResponse::Lost {
                    ", and the response is lost"
                } else {
                    ""
                };
                write!(f, "gateway {} is granted a lease of {units}{lost}", gateway(g))
            }
            Self::Admit {
                gateway: g,
                lease,
                again: false,
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
                    Fate::Answered => "NATS responds",
                    Fate::Delayed => "delayed, and the writer stops waiting",
                    Fate::Refused => "the stream is full",
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
            Self::GiveBack { lease } => write!(f, "lease {lease} is closed, and its unspent units are given back"),
            Self::CloseLate { lease } => write!(f, "lease {lease} is closed only now"),
            Self::GiveBackLands { give_back, again } => {
                let all = match give_back.total {
                    Total::ALL => "all".to_owned(),
                    total => format!("{} in all", total.units),
                };
                let last = if give_back.total.last { ", the last" } else { "" };
                let lost = if *again { "; the response is lost" } else { "" };
                write!(f, "Postgres takes {all} of lease {} back{last}{lost}", give_back.lease)
            }
            Self::Replace { gateway: g } => {
                write!(
                    f,
                    "gateway {} finds its run ended: it gives the run up and begins a new one",
                    gateway(g)
                )
            }
            Self::Crash { gateway: g } => write!(f, "gateway {} is killed", gateway(g)),
            Self::Restart { gateway: g } => write!(f, "gateway {} starts again", gateway(g)),
            Self::Suspect { run } => write!(f, "the worker presumes run {run} dead: its row is now fencing"),
            Self::Fence { run } => write!(f, "the worker ends the lane of run {run}: a fence, if it has no end"),
            Self::Store { run } => write!(f, "the ingestor stores the records of the lane of run {run}"),
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
            Self::Stop { gateway: g } => write!(f, "gateway {} gets SIGTERM", gateway(g)),
            Self::CloseLane { run } => write!(f, "the writer of run {run} begins to close the lane"),
            Self::CloseRun { run } => write!(f, "run {run} is closed"),
        }
    }
}

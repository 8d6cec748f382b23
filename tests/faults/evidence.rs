//! The input of the checker: the history, the contents of the stores at the end, and the faults during the run.

use std::collections::{BTreeMap, HashMap, HashSet};

use schema::{AccountId, EventId, KeyId, LeaseId};

use super::{history::Attempt, history::RequestId, limits::Limits, timeline::Timeline};

#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Indexed by [`Attempt::account`].
    pub accounts: Vec<AccountId>,
    /// Indexed by [`Attempt::key`].
    pub keys: Vec<KeyId>,
    /// Indexed by [`Attempt::usage_type`].
    pub usage_types: Vec<String>,
    pub history: Vec<Attempt>,
    /// All of `usage_events`.
    pub rows: Vec<Row>,
    pub limits: Limits,
    pub revocations: Vec<Revocation>,
    pub timeline: Timeline,
    /// Accounts with one period and limits that are always known. No retried operation shares their units.
    pub steady: HashSet<usize>,
    pub pools: Vec<Pool>,
    pub leases: Vec<Lease>,
    pub stream: Stream,
    pub reported: Vec<ReportedLine>,
    /// After this time, units of a dead gateway or of an unknown outcome are available again.
    pub settled_ms: i64,
}

/// One row of `usage_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `None`: the row does not come from the suite.
    pub request: Option<RequestId>,
    pub event: EventId,
    pub account: AccountId,
    pub key: KeyId,
    pub usage_type: String,
    pub units: i64,
    pub period_start: i64,
    pub lease: LeaseId,
    pub position: Position,
}

/// The position of an event: shard, sequence in the stream, index in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub shard: u16,
    pub seq: u64,
    pub idx: u32,
}

/// A revoked key. The admin call was answered at `completed_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub key: usize,
    pub completed_ms: i64,
}

/// One row of `quota_pool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub account: AccountId,
    pub usage_type: String,
    pub period_start: i64,
    pub granted: i64,
}

/// One row of `quota_leases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// The run that took the lease.
    pub gateway: String,
    pub account: AccountId,
    pub usage_type: String,
    pub period_start: i64,
    /// Returned units are subtracted.
    pub units: i64,
    /// Neither returned nor settled: its unspent units are held.
    pub is_live: bool,
}

/// The contents of the stream, and how far the manifests record it as stored.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Events at their positions, for the records that the stream still holds.
    pub events: BTreeMap<Position, EventId>,
    /// For each shard: records below this sequence may be missing because they were trimmed. A trim keeps the last record of
    /// each lane, so only a record that follows another record of its lane is certainly behind the trim.
    pub whole_from: HashMap<u16, u64>,
    /// Events that were dropped as duplicates, each with its units and the lease that paid for it.
    pub dropped: HashMap<Position, (LeaseId, i64)>,
    /// For each shard: the sequence of its last record, `done_through`, and whether a range is pending.
    pub shards: Vec<(u64, u64, bool)>,
}

/// One line of an account, usage type and period: the units reported to Stripe, and the units in ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedLine {
    pub name: String,
    pub stripe: i64,
    pub counted: i64,
}

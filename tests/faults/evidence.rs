//! What the checker is given: the history, what the stores hold at the end, and what was done to the system meanwhile.

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
    /// Accounts whose one period and limits are known all the time, and no operation shares their units.
    pub steady: HashSet<usize>,
    pub pools: Vec<Pool>,
    pub leases: Vec<Lease>,
    pub stream: Stream,
    pub told: Vec<Told>,
    /// Units of what died, or has an unknown outcome, are back after so long.
    pub settled_ms: i64,
}

/// One row of `usage_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `None`: not one of the suite's.
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

/// Where an event stands: shard, sequence in the stream, index in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub shard: u16,
    pub seq: u64,
    pub idx: u32,
}

/// A key that was revoked: the admin call was answered at `completed_ms`.
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
    /// Whose run took it.
    pub gateway: String,
    pub account: AccountId,
    pub usage_type: String,
    pub period_start: i64,
    /// Less what was given back.
    pub units: i64,
    /// Neither returned nor settled: what it has not spent is held.
    pub is_live: bool,
}

/// What the stream holds, and how far the manifests say that it is stored.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Events at their positions, as far as the stream still holds them.
    pub events: BTreeMap<Position, EventId>,
    /// Of each shard: below this sequence records may be missing, since they were trimmed. A trim leaves the last record of
    /// each lane, so only what follows another record of its lane is certainly behind the trim.
    pub whole_from: HashMap<u16, u64>,
    /// Events that were dropped as duplicates, with the lease that paid for each and its units.
    pub dropped: HashMap<Position, (LeaseId, i64)>,
    /// Of each shard: its last record's sequence, `done_through`, and whether a range is pending.
    pub shards: Vec<(u64, u64, bool)>,
}

/// One line of Stripe's: what it was told, and what ClickHouse has, of an account, usage type and period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub line: String,
    pub stripe: i64,
    pub counted: i64,
}

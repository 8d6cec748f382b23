//! Leases: what counters request and owe, gathered into few transactions of PostgreSQL.
//!
//! | to find | open |
//! |---|---|
//! | the queue of counters that need service | [`requests`] |
//! | the one task that serves them, many in one transaction | [`client`] |
//! | the statements | [`transaction`] |

pub(crate) mod client;
mod job;
pub(crate) mod requests;
mod transaction;

use std::sync::Arc;

use protocol::grant::Pool;
use schema::{LeaseId, Period, RunId};
use tokio::sync::oneshot;

pub(crate) use self::{job::Job, transaction::Decision};
use super::reservation::Hit;
use crate::accounts::account::State;

/// One request for a lease: units for itself, and more for the requests behind it.
pub(crate) struct LeaseRequest {
    pub state: Arc<State>,
    pub cost: i64,
    /// Close and give back what the counter holds, in the same transaction: together with the pool it may cover the cost.
    pub surrender: bool,
    pub reply: oneshot::Sender<LeaseAnswer>,
}

#[derive(Debug)]
pub(crate) enum LeaseAnswer {
    /// If nobody takes the answer, dropping it puts the units back.
    Granted(Hit),
    Refused {
        pool: Pool,
        alone: bool,
        others: Others,
    },
    Unavailable,
}

/// Other gateways that hold leases of a pool that does not cover a cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Others {
    /// They live: their unspent units can be recalled.
    pub runs: Vec<RunId>,
    /// There is one more that cannot be asked now, and may be later: it spools, or its heartbeat stopped.
    pub out_of_reach: bool,
}

pub(crate) type Delivery = (oneshot::Sender<LeaseAnswer>, LeaseAnswer);

/// What a counter wants done.
pub(crate) struct Work {
    pub give_backs: Vec<GiveBack>,
    pub want: Option<Want>,
}

/// Units of a closed lease, as an absolute total: giving back twice gives back once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GiveBack {
    pub lease_id: LeaseId,
    pub period_start: i64,
    pub total: i64,
    /// No reservation remains: the lease is returned.
    pub last: bool,
}

/// A lease to be granted. The id is made here, once: requested again after an unknown outcome, the lease is granted once.
pub(crate) struct Want {
    pub lease_id: LeaseId,
    pub period: Period,
    pub needed: i64,
    pub wanted: i64,
    /// The counter's epoch at the request.
    pub epoch: u64,
    /// `None`: a renewal, for which nobody waits.
    pub ask: Option<LeaseRequest>,
}

impl LeaseRequest {
    pub fn period(&self) -> Period {
        self.state.standing.period
    }
}

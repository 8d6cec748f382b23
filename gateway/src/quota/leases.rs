//! Leases: gathers the requests and returns of all counters into few PostgreSQL transactions.
//!
//! | to find | open |
//! |---|---|
//! | the queue of counters that need service | [`requests`] |
//! | the one task that serves them, many in one transaction | [`client`] |
//! | the statements | [`transaction`] |
//! | pools under a spend cap | [`capped`] |

mod capped;
pub(crate) mod client;
mod job;
pub(crate) mod requests;
mod transaction;

use std::sync::Arc;

use protocol::grant::Pool;
use schema::{LeaseId, Period, RunId};
use tokio::sync::oneshot;

pub(crate) use self::{job::Job, transaction::Decision};
use super::{reservation::Hit, view::Spent};
use crate::accounts::account::AccountState;

/// One request for a lease: units for the request itself, and more for those behind it in the queue.
pub(crate) struct LeaseRequest {
    pub state: Arc<AccountState>,
    /// Of the pool.
    pub period: Period,
    pub cost: i64,
    /// Close the counter's leases and give their units back in the same transaction. Together with the pool they may cover the
    /// cost.
    pub surrender: bool,
    pub reply: oneshot::Sender<LeaseAnswer>,
}

#[derive(Debug)]
pub(crate) enum LeaseAnswer {
    /// If no request takes the answer, dropping it puts the units back.
    Granted(Hit),
    Refused {
        pool: Pool,
        alone: bool,
        others: Others,
        /// What was spent, if it is the spend cap that does not allow more.
        spent: Option<Spent>,
    },
    Unavailable,
}

/// Other gateways that hold leases of a pool that does not cover a cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Others {
    /// Live runs. Their unspent units can be recalled.
    pub runs: Vec<RunId>,
    /// Another run holds leases and cannot be asked now: it spools, or its heartbeat stopped.
    pub out_of_reach: bool,
}

pub(crate) type Delivery = (oneshot::Sender<LeaseAnswer>, LeaseAnswer);

/// The work of one counter in a transaction.
pub(crate) struct Work {
    pub give_backs: Vec<GiveBack>,
    pub want: Option<Want>,
}

/// Units of a closed lease, as an absolute total, so that repeating it changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GiveBack {
    pub lease_id: LeaseId,
    pub period_start: i64,
    pub total: i64,
    /// No reservation remains, so the lease is returned.
    pub last: bool,
}

/// A lease to be granted. The gateway chooses its id once, so a request that is repeated after an unknown outcome grants one
/// lease.
pub(crate) struct Want {
    pub lease_id: LeaseId,
    pub period: Period,
    pub needed: i64,
    pub wanted: i64,
    /// The counter's epoch at the request.
    pub epoch: u64,
    /// `None`: a renewal, for which no request waits.
    pub ask: Option<LeaseRequest>,
}

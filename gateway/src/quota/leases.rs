//! Leases and Postgres: what counters ask for and owe, gathered into few transactions.
//!
//! | what | file |
//! |---|---|
//! | where counters leave their questions, and which of them hold leases | [`desk`] |
//! | the one task that serves them, many in one transaction | [`broker`] |
//! | the statements | [`transaction`] |
//! | what is idle goes back | [`sweep`] |

mod broker;
mod desk;
mod sweep;
mod transaction;

use std::sync::Arc;

use protocol::grant::Pool;
use schema::{LeaseId, Period, RunId, UsageType};
use tokio::sync::oneshot;

pub(crate) use self::{broker::Broker, desk::Desk, sweep::sweep, transaction::Decision};
use crate::{
    accounts::account::{Account, State},
    quota::counter::Hit,
};

/// A request's question: units for it, and more for those behind it.
pub(crate) struct Ask {
    pub state: Arc<State>,
    pub cost: i64,
    /// Close and give back what the counter holds, in the same transaction: together with the pool it may cover the cost.
    pub surrender: bool,
    pub reply: oneshot::Sender<Answer>,
}

#[derive(Debug)]
pub(crate) enum Answer {
    /// If nobody takes the answer, dropping it puts the units back.
    Granted(Hit),
    Refused {
        pool: Pool,
        alone: bool,
        others: Others,
    },
    Unavailable,
}

/// Who else holds leases of a pool that does not cover a cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Others {
    /// They live: units that they have not spent can be recalled.
    pub runs: Vec<RunId>,
    /// There is one more that cannot be asked now, and may be later: it spools, or its heartbeat stands still.
    pub out_of_reach: bool,
}

pub(crate) type Delivery = (oneshot::Sender<Answer>, Answer);

/// What a counter wants done.
pub(crate) struct Work {
    pub give_backs: Vec<GiveBack>,
    pub want: Option<Want>,
}

/// Units of a closed lease, as an absolute total: told twice, it is given back once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GiveBack {
    pub lease_id: LeaseId,
    pub period_start: i64,
    pub total: i64,
    /// No reservation remains: the lease is returned.
    pub last: bool,
}

/// A lease to be granted. The id is made here, once: asked for again after an unknown outcome, it is granted once.
pub(crate) struct Want {
    pub lease_id: LeaseId,
    pub period: Period,
    pub needed: i64,
    pub wanted: i64,
    /// The counter's epoch when it asked.
    pub epoch: u64,
    /// `None`: a renewal, for which nobody waits.
    pub ask: Option<Ask>,
}

/// The work of one counter.
pub(crate) struct Job {
    pub account: Arc<Account>,
    pub usage_type: UsageType,
    pub work: Work,
}

impl Ask {
    pub fn period(&self) -> Period {
        self.state.standing.period
    }
}

//! The state of a counter that is changed under its lock. The fast path never reads it.

use std::{sync::Arc, time::Instant};

use protocol::grant::Pace;
use schema::{LeaseId, Period};

use super::{closing::Closing, recalled::Recalls};
use crate::quota::{
    leases::{GiveBack, LeaseRequest},
    reservation::HeldLease,
};

#[derive(Default)]
pub(super) struct Core {
    pub closing: Vec<Closing>,
    /// A request for a lease that the lease client has not taken yet.
    pub request: Option<LeaseRequest>,
    /// Counts closings: a lease that was requested before a closing is not kept after it.
    pub epoch: u64,
    pub last_grant: Option<LastGrant>,
    pub unchanged: Option<Unchanged>,
    /// A transaction of this counter is in progress.
    pub under_way: bool,
    /// That transaction may bring a lease.
    pub asking: bool,
    pub recalls: Recalls,
}

pub(super) struct LastGrant {
    pub units: i64,
    /// Open units right after it.
    pub held: i64,
    pub at: Instant,
}

pub(super) struct Unchanged {
    pub newest: LeaseId,
    pub held: i64,
    pub since: Instant,
}

impl Core {
    pub(super) fn close(&mut self, lease: Arc<HeldLease>, period: Period) {
        lease.units.close();
        self.closing.push(Closing {
            id: lease.id,
            period_start: period.start,
            lease: Some(lease),
            acknowledged: 0,
        });
    }

    pub(super) fn acknowledge(&mut self, done: &GiveBack) {
        if done.last {
            self.closing.retain(|closing| closing.id != done.lease_id);
        } else if let Some(closing) = self.closing.iter_mut().find(|closing| closing.id == done.lease_id) {
            closing.acknowledged = done.total;
        }
    }

    pub(super) fn pace(&self, now: Instant, held: i64) -> Option<Pace> {
        self.last_grant.as_ref().map(|last| Pace {
            granted: last.units,
            spent: last.held - held,
            elapsed: now.duration_since(last.at),
        })
    }
}

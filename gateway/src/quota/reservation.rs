//! A lease that a counter holds, and the units of it that one request reserved.

use std::{fmt, sync::Arc};

use protocol::lease::Lease;
use schema::LeaseId;

use super::{signals::Signals, view::Seen};

/// A lease of this gateway's run.
pub(crate) struct HeldLease {
    pub id: LeaseId,
    pub units: Lease,
    signals: Arc<Signals>,
}

/// Reserved units of one request. If it is dropped without [`Reservation::spent`], the units are put back.
pub(crate) struct Reservation {
    lease: Arc<HeldLease>,
    cost: i64,
    settled: bool,
}

/// Units that the leases at hand covered.
#[derive(Debug)]
pub(crate) struct Hit {
    pub reservation: Reservation,
    pub seen: Seen,
    /// It is time for the next lease: the caller asks the lease client to serve the counter.
    pub renew: bool,
}

impl HeldLease {
    pub(crate) fn new(id: LeaseId, units: Lease, signals: &Arc<Signals>) -> Self {
        Self {
            id,
            units,
            signals: Arc::clone(signals),
        }
    }
}

impl Reservation {
    /// `cost` units that were taken from the lease already.
    pub(crate) fn of(lease: &Arc<HeldLease>, cost: i64) -> Self {
        Self {
            lease: Arc::clone(lease),
            cost,
            settled: false,
        }
    }

    pub(crate) fn cost(&self) -> i64 {
        self.cost
    }

    pub(crate) fn lease_id(&self) -> LeaseId {
        self.lease.id
    }

    pub(crate) fn spent(mut self) {
        self.settled = true;
        let signals = &self.lease.signals;
        // The end of a lease that is used up goes along with the counter's next transaction, except when the gateway stops.
        if self.lease.units.spent().is_final() && signals.requests.is_draining() {
            signals.request_service();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.settled {
            let closed = self.lease.units.refund(self.cost).closed;
            self.lease.signals.units_came_back(self.cost, closed);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} units of {:?}", self.cost, self.lease.id)
    }
}

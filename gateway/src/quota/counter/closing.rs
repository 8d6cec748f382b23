//! A closed lease, until PostgreSQL has its unspent units back.

use std::sync::Arc;

use protocol::give_back::Total;
use schema::LeaseId;

use crate::quota::{leases::GiveBack, reservation::HeldLease};

/// A closed lease whose row in PostgreSQL is not `returned` yet.
pub(super) struct Closing {
    pub id: LeaseId,
    pub period_start: i64,
    /// `None`: it is unknown whether PostgreSQL granted the lease, so all of it goes back, if it exists.
    pub lease: Option<Arc<HeldLease>>,
    /// Units that PostgreSQL has back.
    pub acknowledged: i64,
}

impl Closing {
    /// What to report to PostgreSQL, if there is anything new. The lease is read once, so that total and finality agree.
    pub(super) fn give_back(&self) -> Option<GiveBack> {
        let total = match &self.lease {
            Some(lease) => Total::due(lease.units.snapshot(), self.acknowledged)?,
            None => Total::ALL,
        };
        Some(GiveBack {
            lease_id: self.id,
            period_start: self.period_start,
            total: total.units,
            last: total.last,
        })
    }

    pub(super) fn owed(&self) -> i64 {
        let unspent = self.lease.as_ref().map_or(0, |lease| lease.units.snapshot().unspent);
        unspent - self.acknowledged
    }
}

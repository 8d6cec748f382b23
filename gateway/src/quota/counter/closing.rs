//! A lease that was closed, until Postgres has back what of it is unspent.

use std::sync::Arc;

use protocol::give_back::Total;
use schema::LeaseId;

use crate::quota::{leases::GiveBack, reservation::HeldLease};

/// A closed lease whose row in Postgres is not `returned` yet.
pub(super) struct Closing {
    pub id: LeaseId,
    pub period_start: i64,
    /// `None`: nobody knows whether Postgres granted it, so all of it goes back, if there is any.
    pub lease: Option<Arc<HeldLease>>,
    /// Units that Postgres has back.
    pub acknowledged: i64,
}

impl Closing {
    /// What Postgres shall be told, if there is news. One reading of the lease, so that total and finality agree.
    pub fn give_back(&self) -> Option<GiveBack> {
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

    pub fn owed(&self) -> i64 {
        let unspent = self.lease.as_ref().map_or(0, |lease| lease.units.snapshot().unspent);
        unspent - self.acknowledged
    }
}

//! A lease as a counter holds it, and the part of it that one request reserved.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use protocol::lease::Lease;
use schema::{LeaseId, UsageType};

use crate::{accounts::account::Account, quota::leases::Desk};

/// A lease of this gateway's run, and whom to tell when it has something to give back.
pub(crate) struct HeldLease {
    pub id: LeaseId,
    pub units: Lease,
    usage_type: UsageType,
    /// Weak, because the account's counter holds the lease. While a lease is not given back the desk holds the account.
    account: Weak<Account>,
    desk: Arc<Desk>,
}

/// Units of one request. Dropped without [`Reservation::spent`], it puts them back.
pub(crate) struct Reservation {
    lease: Arc<HeldLease>,
    cost: i64,
    settled: bool,
}

impl HeldLease {
    pub fn new(id: LeaseId, units: Lease, account: &Arc<Account>, usage_type: UsageType, desk: &Arc<Desk>) -> Self {
        Self {
            id,
            units,
            usage_type,
            account: Arc::downgrade(account),
            desk: Arc::clone(desk),
        }
    }

    /// After they came back: who is told early would ask in vain, and remember that.
    fn units_came_back(&self, units: i64, closed: bool) {
        if let Some(account) = self.account.upgrade() {
            self.desk.units_came_back(&account, self.usage_type, units, closed);
        }
    }

    fn attend(&self) {
        if let Some(account) = self.account.upgrade() {
            self.desk.attend(&account, self.usage_type);
        }
    }
}

impl Reservation {
    /// `cost` units that were taken from the lease already.
    pub fn of(lease: &Arc<HeldLease>, cost: i64) -> Self {
        Self {
            lease: Arc::clone(lease),
            cost,
            settled: false,
        }
    }

    pub fn cost(&self) -> i64 {
        self.cost
    }

    pub fn lease_id(&self) -> LeaseId {
        self.lease.id
    }

    pub fn spent(mut self) {
        self.settled = true;
        // The end of a lease that is used up goes along with the counter's next transaction, but for a gateway that stops.
        if self.lease.units.spent().is_final() && self.lease.desk.is_draining() {
            self.lease.attend();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.settled {
            let closed = self.lease.units.refund(self.cost).closed;
            self.lease.units_came_back(self.cost, closed);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} units of {:?}", self.cost, self.lease.id)
    }
}

//! The snapshot that requests read.

use std::sync::{Arc, LazyLock};

use protocol::grant::Pool;
use schema::Period;

use crate::quota::reservation::HeldLease;

/// The leases at hand. There are two, because the next one arrives before the current one is used up.
pub(super) struct Held {
    pub period: Period,
    /// Spent first.
    pub older: Option<Arc<HeldLease>>,
    pub newer: Option<Arc<HeldLease>>,
    /// As PostgreSQL last answered.
    pub pool: Pool,
    /// No other gateway was alive at that time.
    pub alone: bool,
}

pub(super) static EMPTY: LazyLock<Arc<Held>> = LazyLock::new(|| {
    Arc::new(Held {
        period: Period { start: 0, end: 0 },
        older: None,
        newer: None,
        pool: Pool::default(),
        alone: false,
    })
});

impl Held {
    pub(super) fn leases(&self) -> impl Iterator<Item = &Arc<HeldLease>> {
        [&self.older, &self.newer].into_iter().flatten()
    }

    pub(super) fn open_units(&self) -> i64 {
        self.leases().map(|lease| lease.units.left()).sum()
    }
}

/// Spends units of this lease, and returns the lease and how many units are left.
pub(super) fn spend_from(lease: Option<&Arc<HeldLease>>, cost: i64) -> Option<(&Arc<HeldLease>, i64)> {
    let lease = lease?;
    lease.units.try_spend(cost).map(|left| (lease, left))
}

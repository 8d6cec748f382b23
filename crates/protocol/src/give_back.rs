//! Gives units of a lease back: the total that the holder sends to PostgreSQL, and its effect on the lease's row.
//!
//! ```text
//! row:  Live ─ give back (not final) ─> Live ─ give back (final) ─> Returned
//!       Live ─ settle (the run is being ended) ─> Settled
//! ```
//!
//! # Promises
//! - The holder closes its lease first ([`crate::lease`]). From then on the unspent units only grow. So an **absolute
//!   total** can be sent any number of times, in any order: the row keeps the largest.
//! - Only a final total sets the row to `Returned`: no request holds units of the lease any more.
//! - A run that is being ended gives nothing back. Settling counts the spent units instead.
//!
//! The model `lease_lane_fence` checks the property "what came back of a lease was never spent, and of an ended one all of it
//! came back". Its mutants `ReturnBeforeClose` and `ReturnDifferences` deviate from this and fail.

use crate::{lease::Snapshot, run::RunState};

/// The total units of one lease to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Total {
    pub units: i64,
    /// No request holds units of the lease: nothing more comes back.
    pub last: bool,
}

/// A lease as PostgreSQL has it: a row of `quota_leases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRow {
    pub units: i64,
    /// Units that came back: given back by the run, or settled.
    pub returned: i64,
    pub state: LeaseState,
}

/// The values of `quota_leases.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    Live,
    Returned,
    Settled,
}

/// How many units of a lease were spent, according to a count of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// The rest goes back to the pool.
    Units(i64),
    /// The count exceeds the units of the lease by this many. The lease stays live until an operator has looked at it.
    TooMany(i64),
}

impl Total {
    /// All units of the lease. For a grant whose outcome is unknown: none of its units were spent.
    pub const ALL: Self = Self {
        units: i64::MAX,
        last: true,
    };

    /// Returns the total to send for a closed lease. `None`: PostgreSQL knows everything. `acknowledged`: units that
    /// PostgreSQL has back. The units and the finality come from one snapshot, so they are consistent.
    pub fn due(now: Snapshot, acknowledged: i64) -> Option<Self> {
        let total = Self {
            units: now.unspent,
            last: now.is_final(),
        };
        (total.last || total.units > acknowledged).then_some(total)
    }
}

impl LeaseRow {
    pub fn granted(units: i64) -> Self {
        Self {
            units,
            returned: 0,
            state: LeaseState::Live,
        }
    }

    /// Units that the run took and has not given back.
    pub fn had(&self) -> i64 {
        self.units - self.returned
    }

    /// Applies a total while the run is active, and returns the units that go to the pool.
    pub fn give_back(&mut self, run: RunState, total: Total) -> i64 {
        if self.state != LeaseState::Live || !run.is_active() {
            return 0;
        }
        let before = self.returned;
        self.returned = total.units.min(self.units).max(before);
        if total.last {
            self.state = LeaseState::Returned;
        }
        self.returned - before
    }

    /// Interprets a count of the lease's events. No event is negative: corrections have no lease.
    pub fn spent(&self, counted: i64) -> Spent {
        match counted - self.had() {
            too_many @ 1.. => Spent::TooMany(too_many),
            _ => Spent::Units(counted),
        }
    }

    /// Settles a live lease of a run that is being ended, and returns the units that go to the pool. A lease whose count
    /// exceeds its units stays as it is.
    pub fn settle(&mut self, run: RunState, counted: i64) -> i64 {
        let Spent::Units(spent) = self.spent(counted) else {
            return 0;
        };
        if self.state != LeaseState::Live || !run.is_being_ended() {
            return 0;
        }
        let rest = self.had() - spent;
        self.returned += rest;
        self.state = LeaseState::Settled;
        rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(unspent: i64, reservations: u64) -> Snapshot {
        Snapshot {
            unspent,
            reservations,
            closed: true,
        }
    }

    #[test]
    fn totals_are_sent_while_they_grow_and_once_they_are_final() {
        let due = |unspent, reservations, acknowledged| Total::due(snapshot(unspent, reservations), acknowledged);
        assert_eq!(due(3, 1, 0), Some(Total { units: 3, last: false }));
        assert_eq!(due(3, 1, 3), None);
        assert_eq!(due(3, 0, 3), Some(Total { units: 3, last: true }));
    }

    #[test]
    fn the_count_decides_how_many_units_go_back() {
        let row = |returned| LeaseRow {
            returned,
            ..LeaseRow::granted(100)
        };
        for (returned, counted, spent) in [
            (0, 0, Spent::Units(0)),
            (0, 100, Spent::Units(100)),
            (0, 101, Spent::TooMany(1)),
            (40, 60, Spent::Units(60)),
            // The run gave these units back and spent them anyway.
            (40, 61, Spent::TooMany(1)),
            (100, 0, Spent::Units(0)),
        ] {
            assert_eq!(row(returned).spent(counted), spent, "{returned} {counted}");
        }
    }

    #[test]
    fn only_an_active_run_gives_back_and_only_an_ended_one_is_settled() {
        let total = Total { units: 4, last: true };
        for run in RunState::ALL {
            let mut row = LeaseRow::granted(10);
            assert_eq!(
                row.give_back(run, total),
                if run.is_active() { 4 } else { 0 },
                "{run:?}"
            );
            let mut row = LeaseRow::granted(10);
            assert_eq!(row.settle(run, 7), if run.is_being_ended() { 3 } else { 0 }, "{run:?}");
        }
    }

    proptest! {
        #[test]
        fn totals_may_come_twice_and_in_any_order(units in 1i64..50, totals in prop::collection::vec(0i64..60, 1..10)) {
            let (mut row, mut pool) = (LeaseRow::granted(units), 0);
            for total in &totals {
                pool += row.give_back(RunState::Live, Total { units: *total, last: false });
                prop_assert_eq!(pool, row.returned);
            }
            let largest = totals.iter().max().copied().unwrap_or(0);
            prop_assert_eq!(row.returned, largest.min(units));
            pool += row.settle(RunState::Fencing, 0);
            prop_assert_eq!((pool, row.state), (units, LeaseState::Settled));
        }
    }
}

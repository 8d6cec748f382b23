//! The actions on leases: take a lease, spend from it, give it back.

use protocol::{
    give_back::{LeaseRow, LeaseState, Total},
    lease,
};

use super::super::{
    LeaseLaneFence,
    action::GrantResponse,
    bounds::Mutant,
    state::{GiveBack, Lease, Local, State},
};

impl LeaseLaneFence {
    pub(super) fn acquire(&self, state: &mut State, gateway: u8, units: i64, response: GrantResponse) {
        let Some(run) = state.gateways[usize::from(gateway)].run else {
            return;
        };
        let mut pool = self.pool(state);
        if !pool.grant(units) {
            return;
        }
        state.granted = pool.granted;
        let local = match response {
            GrantResponse::Received => Local::Held {
                lease: lease::Lease::new(units, 0).snapshot(),
                sent: 0,
            },
            GrantResponse::Lost => {
                state.faults.unclear += 1;
                Local::Unknown
            }
        };
        state.leases.push(Lease {
            run,
            row: LeaseRow::granted(units),
            local,
        });
    }

    pub(super) fn give_back(&self, state: &mut State, lease: u8) {
        let of_lease = &mut state.leases[usize::from(lease)];
        let keeps_open = self.is(Mutant::ReturnBeforeClose) && of_lease.is_open();
        if !keeps_open {
            of_lease.step(lease::Lease::close);
        }
        let total = match of_lease.local {
            Local::None => None,
            Local::Unknown => Some(Total::ALL),
            Local::Held { lease, .. } if keeps_open => Some(Total {
                units: lease.unspent,
                last: lease.reservations == 0,
            }),
            Local::Held { lease, sent } => Total::due(lease, sent),
        };
        let Some(total) = total else { return };
        if !keeps_open {
            of_lease.local = match of_lease.local {
                Local::Held { lease, .. } if !total.last => Local::Held {
                    lease,
                    sent: total.units,
                },
                _ => Local::None,
            };
        }
        state.give_backs.insert(GiveBack { lease, total });
    }

    /// The transaction in PostgreSQL.
    pub(super) fn take_back(&self, state: &mut State, give_back: GiveBack) {
        let lease = &mut state.leases[usize::from(give_back.lease)];
        let run = state.runs[usize::from(lease.run)].row;
        let row = &mut lease.row;
        state.granted -= if self.is(Mutant::ReturnDifferences) {
            if row.state != LeaseState::Live || !run.is_active() {
                return;
            }
            let units = give_back.total.units.min(row.units);
            row.returned += units;
            units
        } else {
            row.give_back(run, give_back.total)
        };
    }
}

/// A request reserves one unit of the lease.
pub(super) fn reserve(state: &mut State, lease: u8) {
    state.leases[usize::from(lease)].step(|lease| lease.try_spend(1));
}

/// The request's unit is spent.
pub(super) fn spend(state: &mut State, lease: u8) {
    state.leases[usize::from(lease)].step(lease::Lease::spent);
}

/// The request's unit is unspent again.
pub(super) fn refund(state: &mut State, lease: u8) {
    state.leases[usize::from(lease)].step(|lease| lease.refund(1));
}

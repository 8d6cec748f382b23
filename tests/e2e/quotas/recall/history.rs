//! The calls of many clients at several gateways, and whether each refusal was justified.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

/// One request, as its client saw it.
pub(super) struct Call {
    pub cost: i64,
    pub invoked: Instant,
    pub answered: Instant,
    pub admitted: bool,
}

/// All calls of the clients.
#[derive(Clone, Default)]
pub(super) struct History(pub Arc<Mutex<Vec<Call>>>);

impl History {
    pub(super) fn admitted_units(&self) -> i64 {
        let calls = self.0.lock().unwrap();
        calls.iter().filter(|call| call.admitted).map(|call| call.cost).sum()
    }

    /// For each refusal: the units that no request had asked for by the time of the refusal were unspent. They must be too few
    /// for the refused request.
    pub(super) fn assert_honest(&self, limit: i64) {
        let calls = self.0.lock().unwrap();
        for refused in calls.iter().filter(|call| !call.admitted) {
            let asked_for = |call: &&Call| call.admitted && call.invoked <= refused.answered;
            let unspent = limit - calls.iter().filter(asked_for).map(|call| call.cost).sum::<i64>();
            assert!(
                unspent < refused.cost,
                "{} units were refused while {unspent} were unspent",
                refused.cost
            );
        }
    }
}

//! One account's units of one usage type: the leases at hand, and the units of closed leases that are owed to PostgreSQL.
//!
//! The fast path ([`Counter::spend`]) reads one published snapshot and spends with one compare-and-swap: no lock, no await.
//! Everything else changes the snapshot under a short lock. The counter owns the request for a lease
//! ([`Counter::request_lease`]) from the moment it is made until it is answered; the lease client carries it to PostgreSQL.

mod closing;
mod held;
mod locked;
mod outcome;
mod recalled;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use protocol::grant;
use schema::{LeaseId, Period};
use tokio::sync::oneshot;

pub(crate) use self::recalled::RecallFound;
use self::{
    closing::Closing,
    held::{EMPTY, Held, spend_from},
    locked::{Core, Unchanged},
};
use super::{
    leases::{
        GiveBack, LeaseAnswer, LeaseRequest, Want, Work,
        requests::{CounterId, LeaseRequests},
    },
    queue::Queue,
    refusals::Refusals,
    reservation::{Hit, Reservation},
    signals::Signals,
    view::Seen,
};
use crate::accounts::account::AccountState;

pub(crate) struct Counter {
    held: ArcSwap<Held>,
    core: Mutex<Core>,
    /// The cost for which a renewal was requested. 0: no renewal is requested.
    renewal: AtomicI64,
    signals: Arc<Signals>,
    /// Requests that the fast path did not serve.
    pub queue: Queue,
}

impl Counter {
    pub(crate) fn new(id: CounterId, requests: &Arc<LeaseRequests>) -> Self {
        Self {
            held: ArcSwap::new(Arc::clone(&EMPTY)),
            core: Mutex::default(),
            renewal: AtomicI64::new(0),
            signals: Arc::new(Signals::new(id, requests)),
            queue: Queue::default(),
        }
    }

    /// Refusals that are remembered.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.signals.refusals
    }

    /// Reserves `cost` units of a lease of this period, if one at hand has them.
    pub(crate) fn spend(&self, period: &Period, cost: i64) -> Option<Hit> {
        let held = self.held.load();
        if held.period != *period {
            return None;
        }
        let (lease, left, renew) = match spend_from(held.older.as_ref(), cost) {
            Some((lease, left)) => (lease, left, false),
            None => {
                let (lease, left) = spend_from(held.newer.as_ref(), cost)?;
                let low = left <= grant::renew_at(lease.units.units());
                (lease, left, low && lease.units.ask_renewal())
            }
        };
        if renew {
            self.renewal.store(cost, Ordering::Relaxed);
        }
        let others = held.leases().filter(|other| other.id != lease.id);
        Some(Hit {
            reservation: Reservation::of(lease, cost),
            seen: Seen {
                held: left + others.map(|other| other.units.left()).sum::<i64>(),
                pool: held.pool,
                is_current: held.alone,
            },
            renew,
        })
    }

    /// The pool as last seen in this period, and the units at hand now. `None` if all leases were closed since.
    pub(crate) fn seen(&self, period: &Period) -> Option<Seen> {
        let held = self.held.load();
        (held.period == *period).then(|| Seen {
            held: held.open_units(),
            pool: held.pool,
            is_current: held.alone,
        })
    }

    /// Units of this period that requests can reserve here.
    pub(crate) fn open_units(&self, period: &Period) -> i64 {
        let held = self.held.load();
        if held.period == *period { held.open_units() } else { 0 }
    }

    /// Units of this period that PostgreSQL counts as granted to this gateway and that no request has reserved: open units, and
    /// units of closed leases on their way back.
    pub(crate) fn unspent_units(&self, period: &Period) -> i64 {
        let core = self.core();
        let on_their_way = core
            .closing
            .iter()
            .filter(|closing| closing.period_start == period.start);
        self.open_units(period) + on_their_way.map(Closing::owed).sum::<i64>()
    }

    /// Asks the lease client to serve this counter.
    pub(crate) fn request_service(&self) {
        self.signals.request_service();
    }

    /// Requests a lease that covers `cost`, and waits for the answer. The caller must be first in the queue, so that one request
    /// of a counter asks at a time. `surrender`: see [`LeaseRequest::surrender`].
    pub(crate) async fn request_lease(
        &self,
        state: &Arc<AccountState>,
        period: Period,
        cost: i64,
        surrender: bool,
    ) -> LeaseAnswer {
        let Some(_permit) = self.signals.requests.permit() else {
            return LeaseAnswer::Unavailable;
        };
        let (reply, answer) = oneshot::channel();
        self.leave(LeaseRequest {
            state: Arc::clone(state),
            period,
            cost,
            surrender,
            reply,
        });
        self.request_service();
        answer.await.unwrap_or(LeaseAnswer::Unavailable)
    }

    /// Leaves a request for the lease client. It replaces an earlier request, whose client has left.
    fn leave(&self, request: LeaseRequest) {
        self.core().request = Some(request);
    }

    /// Closes every lease and has the unspent units given back. Forgets remembered refusals, because the limit may have changed.
    pub(crate) fn close(&self) {
        // Close the counter before giving units back: the other order admits the same unit twice.
        self.close_leases();
        self.request_service();
    }

    /// Closes and forgets every lease, and all that is owed: another service ended their run and settles it.
    pub(crate) fn abandon(&self) {
        self.close_leases();
        let mut core = self.core();
        core.closing.clear();
        core.request = None;
        core.forget_recalls();
    }

    /// Whether the counter has spent nothing for `idle_after`.
    pub(crate) fn is_idle(&self, now: Instant, idle_after: Duration) -> bool {
        let held = self.held.load();
        let Some(newest) = &held.newer else {
            return false;
        };
        let mut core = self.core();
        let units = held.open_units();
        match &core.unchanged {
            Some(seen) if seen.newest == newest.id && seen.held == units => {
                now.duration_since(seen.since) >= idle_after
            }
            _ => {
                core.unchanged = Some(Unchanged {
                    newest: newest.id,
                    held: units,
                    since: now,
                });
                false
            }
        }
    }

    /// Whether the counter holds nothing and owes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        let core = self.core();
        core.closing.is_empty() && self.held.load().leases().next().is_none()
    }

    /// Whether units wait to be given back. (A lease that is only used up waits for the next transaction.)
    pub(crate) fn has_units_to_give(&self) -> bool {
        self.core().owes_units()
    }

    /// Whether the counter owes PostgreSQL anything, even if it is only the end of a lease.
    pub(crate) fn owes(&self) -> bool {
        !self.core().closing.is_empty()
    }

    /// The work for the lease client's next transaction, if there is any.
    pub(crate) fn work(&self, now: Instant) -> Option<Work> {
        // First, so that any change from here on queues the counter again.
        self.signals.service_begins();
        let mut core = self.core();
        let renewal = self.renewal.swap(0, Ordering::Relaxed);
        let request = core.request.take().filter(|request| !request.reply.is_closed());
        let pace = core.pace(now, self.held.load().open_units());
        let scarce = core.is_scarce(now);
        let wanted = |needed| match scarce {
            true => needed,
            false => grant::wanted_units(pace, needed),
        };
        if let Some(request) = &request
            && (request.surrender || self.held.load().period != request.period)
        {
            // Close the counter before giving units back: the other order admits the same unit twice.
            self.close_open(&mut core);
        }
        self.close_used_up(&mut core);
        let held = self.held.load();
        let want = match request {
            Some(request) => Some(Want {
                lease_id: LeaseId::new(),
                period: request.period,
                needed: request.cost,
                wanted: wanted(request.cost),
                epoch: core.epoch,
                ask: Some(request),
            }),
            None if renewal > 0 && held.newer.is_some() && !scarce => Some(Want {
                lease_id: LeaseId::new(),
                period: held.period,
                needed: renewal,
                wanted: wanted(renewal),
                epoch: core.epoch,
                ask: None,
            }),
            None => None,
        };
        let give_backs: Vec<GiveBack> = core.closing.iter().filter_map(Closing::give_back).collect();
        if want.is_none() && give_backs.is_empty() {
            return None;
        }
        core.under_way = true;
        core.asking = want.is_some();
        Some(Work { give_backs, want })
    }

    fn close_leases(&self) {
        {
            let mut core = self.core();
            core.epoch += 1;
            core.last_grant = None;
            self.close_open(&mut core);
        }
        self.refusals().void();
    }

    fn close_open(&self, core: &mut Core) {
        let held = self.held.swap(Arc::clone(&EMPTY));
        self.renewal.store(0, Ordering::Relaxed);
        for lease in held.leases() {
            core.close(Arc::clone(lease), held.period);
        }
    }

    /// Closes leases that are used up. They go back with the next request, not in a transaction of their own.
    fn close_used_up(&self, core: &mut Core) {
        let held = self.held.load();
        let Some(older) = held.older.as_ref().filter(|older| older.units.left() == 0) else {
            return;
        };
        self.held.store(Arc::new(Held {
            older: None,
            newer: held.newer.clone(),
            ..**held
        }));
        core.close(Arc::clone(older), held.period);
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

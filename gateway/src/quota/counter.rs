//! One account's units of one usage type: the leases at hand, and what is owed to Postgres for those that were closed.
//!
//! The fast path ([`Counter::spend`]) reads one published snapshot and spends with one compare-and-swap: no lock, no await.
//! Everything else changes the snapshot under a short lock, and the broker alone talks to Postgres.

mod closing;
mod held;
mod locked;
mod outcome;
mod recalled;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use protocol::{grant, queued::Queued};
use schema::{LeaseId, Period};

use self::{
    closing::Closing,
    held::{EMPTY, Held, spend_from},
    locked::{Core, Unchanged},
};
pub(crate) use self::{outcome::Publication, recalled::Found};
use crate::{
    quota::view::Seen,
    quota::{
        leases::{Ask, GiveBack, Want, Work},
        refusals::Refusals,
        reservation::Reservation,
        turn::Queue,
    },
};

pub(crate) struct Counter {
    held: ArcSwap<Held>,
    core: Mutex<Core>,
    /// The cost at which a renewal was asked; 0: none is.
    renewal: AtomicI64,
    /// It waits for the broker already.
    queued: Queued,
    /// Others may remember a refusal that units coming back here would void.
    watched: AtomicBool,
    /// Those whom the fast path did not serve.
    pub queue: Queue,
    /// What need not be asked again.
    pub refusals: Refusals,
}

/// A spend that the leases at hand covered.
#[derive(Debug)]
pub(crate) struct Hit {
    pub reservation: Reservation,
    pub seen: Seen,
    /// The caller brings the counter to the broker's attention: it is time for the next lease.
    pub renew: bool,
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            held: ArcSwap::new(Arc::clone(&EMPTY)),
            core: Mutex::default(),
            renewal: AtomicI64::new(0),
            queued: Queued::default(),
            watched: AtomicBool::new(false),
            queue: Queue::default(),
            refusals: Refusals::default(),
        }
    }
}

impl Counter {
    /// Reserves `cost` units of a lease of this period, if one at hand has them.
    pub fn spend(&self, period: &Period, cost: i64) -> Option<Hit> {
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

    /// What was last seen of this period, and what is at hand now; nothing, if all was closed since.
    pub fn seen(&self, period: &Period) -> Option<Seen> {
        let held = self.held.load();
        (held.period == *period).then(|| Seen {
            held: held.open_units(),
            pool: held.pool,
            is_current: held.alone,
        })
    }

    /// Units of this period that requests can reserve here.
    pub fn open_units(&self, period: &Period) -> i64 {
        let held = self.held.load();
        if held.period == *period { held.open_units() } else { 0 }
    }

    /// Units of this period that Postgres counts as granted to us and no request has: open ones, and closed ones on their
    /// way back.
    pub fn unspent_units(&self, period: &Period) -> i64 {
        let core = self.core();
        let on_their_way = core
            .closing
            .iter()
            .filter(|closing| closing.period_start == period.start);
        self.open_units(period) + on_their_way.map(Closing::owed).sum::<i64>()
    }

    /// True for the first who asks since the broker looked: the counter is put into the broker's queue once.
    pub fn enqueue(&self) -> bool {
        self.queued.ask()
    }

    /// Leaves a question for the broker. A question that is still there belongs to a request that has gone: its turn ended.
    pub fn ask(&self, ask: Ask) {
        self.core().ask = Some(ask);
    }

    /// Closes every lease: what is unspent is owed to Postgres from here on. What was refused may be admitted under what has
    /// changed.
    pub fn close(&self) {
        {
            let mut core = self.core();
            core.epoch += 1;
            core.last_grant = None;
            self.close_open(&mut core);
        }
        self.refusals.void();
    }

    /// Closes every lease, and forgets them and all that is owed: the run that held them was ended, and is settled by others.
    pub fn abandon(&self) {
        self.close();
        let mut core = self.core();
        core.closing.clear();
        core.ask = None;
        core.forget_recalls();
    }

    /// It has spent nothing for so long.
    pub fn is_idle(&self, now: Instant, idle_after: Duration) -> bool {
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

    /// Nothing is held and nothing is owed.
    pub fn is_empty(&self) -> bool {
        let core = self.core();
        core.closing.is_empty() && self.held.load().leases().next().is_none()
    }

    /// Units wait to be given back. (A lease that is merely used up waits for the next transaction.)
    pub fn has_units_to_give(&self) -> bool {
        self.core().owes_units()
    }

    /// Something is owed to Postgres, if only the end of a lease.
    pub fn owes(&self) -> bool {
        !self.core().closing.is_empty()
    }

    /// What the broker shall do for this counter in its next transaction; nothing, if there is nothing.
    pub fn work(&self, now: Instant) -> Option<Work> {
        // First, so that whatever comes up from here on queues the counter again.
        self.queued.look();
        let mut core = self.core();
        let renewal = self.renewal.swap(0, Ordering::Relaxed);
        let ask = core.ask.take().filter(|ask| !ask.reply.is_closed());
        let pace = core.pace(now, self.held.load().open_units());
        let scarce = core.is_scarce(now);
        let wanted = |needed| match scarce {
            true => needed,
            false => grant::wanted_units(pace, needed),
        };
        if let Some(ask) = &ask
            && (ask.surrender || self.held.load().period != ask.period())
        {
            // Close the counter before giving units back: the other order admits the same unit twice.
            self.close_open(&mut core);
        }
        self.close_used_up(&mut core);
        let held = self.held.load();
        let want = match ask {
            Some(ask) => Some(Want {
                lease_id: LeaseId::new(),
                period: ask.period(),
                needed: ask.cost,
                wanted: wanted(ask.cost),
                epoch: core.epoch,
                ask: Some(ask),
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

    fn close_open(&self, core: &mut Core) {
        let held = self.held.swap(Arc::clone(&EMPTY));
        self.renewal.store(0, Ordering::Relaxed);
        for lease in held.leases() {
            core.close(Arc::clone(lease), held.period);
        }
    }

    /// A lease that is used up goes back along with the next question, instead of in a transaction of its own.
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

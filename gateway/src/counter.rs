//! One account's units of one usage type: the leases at hand, and what is owed to Postgres for those that were closed.
//!
//! The fast path ([`Counter::spend`]) reads one published snapshot and spends with one compare-and-swap: no lock, no await.
//! Everything else changes the snapshot under a short lock, and the broker alone talks to Postgres.

mod recalled;

use std::{
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use schema::{LeaseId, Period, UsageType};

pub(crate) use self::recalled::Found;
use crate::{
    account::Account,
    lease::Lease,
    leases::{Answer, Ask, Decision, Delivery, Desk, GiveBack, Want, Work},
    queued::Queued,
    quota::{self, Pace, Pool, Seen},
    refusals::Refusals,
    reservation::{HeldLease, Reservation},
    turn::Queue,
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

/// What requests see. Two leases, because the next one arrives before the current one is used up.
struct Held {
    period: Period,
    /// Spent first.
    older: Option<Arc<HeldLease>>,
    newer: Option<Arc<HeldLease>>,
    /// As Postgres last said.
    pool: Pool,
    /// No other gateway lived then.
    alone: bool,
}

#[derive(Default)]
struct Core {
    closing: Vec<Closing>,
    ask: Option<Ask>,
    /// Counts closings: a lease that was asked for before one is not kept after it.
    epoch: u64,
    last_grant: Option<LastGrant>,
    unchanged: Option<Unchanged>,
    /// A transaction of this counter is under way.
    under_way: bool,
    /// It may bring a lease.
    asking: bool,
    recalls: recalled::Recalls,
}

/// A closed lease whose row in Postgres is not `returned` yet.
struct Closing {
    id: LeaseId,
    period_start: i64,
    /// `None`: nobody knows whether Postgres granted it, so all of it goes back, if there is any.
    lease: Option<Arc<HeldLease>>,
    /// Units that Postgres has back.
    acknowledged: i64,
}

struct LastGrant {
    units: i64,
    /// Open units right after it.
    held: i64,
    at: Instant,
}

struct Unchanged {
    newest: LeaseId,
    held: i64,
    since: Instant,
}

/// A spend that the leases at hand covered.
#[derive(Debug)]
pub(crate) struct Hit {
    pub reservation: Reservation,
    pub seen: Seen,
    /// The caller brings the counter to the broker's attention: it is time for the next lease.
    pub renew: bool,
}

/// What publishing a grant takes beside the grant.
pub(crate) struct Publication<'a> {
    pub account: &'a Arc<Account>,
    pub usage_type: UsageType,
    pub desk: &'a Arc<Desk>,
    pub alone: bool,
    pub now: Instant,
}

static EMPTY: LazyLock<Arc<Held>> = LazyLock::new(|| {
    Arc::new(Held {
        period: Period { start: 0, end: 0 },
        older: None,
        newer: None,
        pool: Pool::default(),
        alone: false,
    })
});

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
                let low = left <= quota::renew_at(lease.units.units());
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
            false => quota::wanted_units(pace, needed),
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

    /// Takes over what a transaction decided. Returns the answer to deliver, if a request waits for it.
    pub fn publish(&self, work: Work, decision: Decision, publication: &Publication<'_>) -> Option<Delivery> {
        let mut core = self.core();
        for done in &work.give_backs {
            core.acknowledge(done);
        }
        let delivery = match work.want {
            Some(want) => self.publish_decision(&mut core, want, decision, publication),
            None => None,
        };
        core.transaction_ended(true);
        delivery
    }

    fn publish_decision(
        &self,
        core: &mut Core,
        want: Want,
        decision: Decision,
        publication: &Publication<'_>,
    ) -> Option<Delivery> {
        match decision {
            Decision::Granted { units, pool } => self.publish_grant(core, want, units, pool, publication),
            Decision::Refused { pool, others } => {
                let (held, alone) = (self.held.load(), publication.alone);
                if held.period == want.period || held.leases().next().is_none() {
                    self.held.store(Arc::new(Held {
                        period: want.period,
                        older: held.older.clone(),
                        newer: held.newer.clone(),
                        pool,
                        alone,
                    }));
                }
                want.ask.map(|ask| (ask.reply, Answer::Refused { pool, alone, others }))
            }
            Decision::Nothing | Decision::NoPool => want.ask.map(|ask| (ask.reply, Answer::Unavailable)),
        }
    }

    /// The transaction failed. `perhaps_committed`: the lease that was asked for may exist all the same, so it is owed.
    pub fn give_up(&self, work: Work, perhaps_committed: bool) -> Option<Delivery> {
        let mut core = self.core();
        core.transaction_ended(false);
        let want = work.want?;
        if perhaps_committed {
            core.closing.push(Closing {
                id: want.lease_id,
                period_start: want.period.start,
                lease: None,
                acknowledged: 0,
            });
        }
        want.ask.map(|ask| (ask.reply, Answer::Unavailable))
    }

    /// The run that the transaction was for is not ours any more: nothing of it is kept.
    pub fn drop_work(&self) {
        self.core().transaction_ended(false);
    }

    fn publish_grant(
        &self,
        core: &mut Core,
        want: Want,
        units: i64,
        pool: Pool,
        publication: &Publication<'_>,
    ) -> Option<Delivery> {
        // Whoever asked spends first: what is published before could be spent by others, again and again.
        let reserved = want.ask.as_ref().map_or(0, |ask| ask.cost);
        let lease = Lease::new(units, reserved);
        let lease = Arc::new(HeldLease::new(
            want.lease_id,
            lease,
            publication.account,
            publication.usage_type,
            publication.desk,
        ));
        let held = self.held.load_full();
        let opened = if core.epoch == want.epoch && !publication.desk.is_draining() {
            let (older, retired) = if held.period == want.period {
                (held.newer.clone(), held.older.clone())
            } else {
                (None, None)
            };
            let opened = Held {
                period: want.period,
                older,
                newer: Some(Arc::clone(&lease)),
                pool,
                alone: publication.alone,
            };
            let open_units = opened.open_units();
            core.last_grant = Some(LastGrant {
                units,
                held: open_units,
                at: publication.now,
            });
            self.held.store(Arc::new(opened));
            if let Some(retired) = retired {
                core.close(retired, want.period);
            }
            open_units
        } else {
            // The counter was closed meanwhile (limit, plan, period): only who waited for it may have its units.
            core.close(Arc::clone(&lease), want.period);
            0
        };
        let ask = want.ask?;
        let hit = Hit {
            reservation: Reservation::of(&lease, ask.cost),
            seen: Seen {
                held: opened,
                pool,
                is_current: publication.alone,
            },
            renew: false,
        };
        Some((ask.reply, Answer::Granted(hit)))
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

impl Held {
    fn leases(&self) -> impl Iterator<Item = &Arc<HeldLease>> {
        [&self.older, &self.newer].into_iter().flatten()
    }

    fn open_units(&self) -> i64 {
        self.leases().map(|lease| lease.units.left()).sum()
    }
}

impl Core {
    fn close(&mut self, lease: Arc<HeldLease>, period: Period) {
        lease.units.close();
        self.closing.push(Closing {
            id: lease.id,
            period_start: period.start,
            lease: Some(lease),
            acknowledged: 0,
        });
    }

    fn acknowledge(&mut self, done: &GiveBack) {
        if done.last {
            self.closing.retain(|closing| closing.id != done.lease_id);
        } else if let Some(closing) = self.closing.iter_mut().find(|closing| closing.id == done.lease_id) {
            closing.acknowledged = done.total;
        }
    }

    fn pace(&self, now: Instant, held: i64) -> Option<Pace> {
        self.last_grant.as_ref().map(|last| Pace {
            granted: last.units,
            spent: last.held - held,
            elapsed: now.duration_since(last.at),
        })
    }
}

impl Closing {
    /// What Postgres shall be told, if there is news. One reading of the lease, so that total and finality agree.
    fn give_back(&self) -> Option<GiveBack> {
        let (total, last) = match &self.lease {
            Some(lease) => {
                let now = lease.units.snapshot();
                (now.unspent, now.is_final())
            }
            None => (GiveBack::ALL, true),
        };
        (last || total > self.acknowledged).then_some(GiveBack {
            lease_id: self.id,
            period_start: self.period_start,
            total,
            last,
        })
    }

    fn owed(&self) -> i64 {
        let unspent = self.lease.as_ref().map_or(0, |lease| lease.units.snapshot().unspent);
        unspent - self.acknowledged
    }
}

fn spend_from(lease: Option<&Arc<HeldLease>>, cost: i64) -> Option<(&Arc<HeldLease>, i64)> {
    let lease = lease?;
    lease.units.try_spend(cost).map(|left| (lease, left))
}

#[cfg(test)]
mod tests;

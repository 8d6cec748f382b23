//! Applies the decision of a lease client's transaction.

use std::{sync::Arc, time::Instant};

use protocol::{grant::Pool, lease::Lease};

use super::{
    Counter,
    closing::Closing,
    held::Held,
    locked::{Core, LastGrant},
};
use crate::quota::{
    leases::{Decision, Delivery, LeaseAnswer, Want, Work},
    reservation::{HeldLease, Hit, Reservation},
    view::Seen,
};

impl Counter {
    /// Applies a transaction's decision at `now`. `alone`: no other gateway was alive. Returns the answer to deliver, if a
    /// request waits for it.
    pub(crate) fn publish(&self, work: Work, decision: Decision, alone: bool, now: Instant) -> Option<Delivery> {
        let mut core = self.core();
        for done in &work.give_backs {
            core.acknowledge(done);
        }
        let delivery = match work.want {
            Some(want) => self.publish_decision(&mut core, want, decision, alone, now),
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
        alone: bool,
        now: Instant,
    ) -> Option<Delivery> {
        match decision {
            Decision::Granted { units, pool } => self.publish_grant(core, want, units, pool, alone, now),
            Decision::Refused { pool, others, spent } => {
                let held = self.held.load();
                if held.period == want.period || held.leases().next().is_none() {
                    self.held.store(Arc::new(Held {
                        period: want.period,
                        older: held.older.clone(),
                        newer: held.newer.clone(),
                        pool,
                        alone,
                    }));
                }
                let refused = LeaseAnswer::Refused {
                    pool,
                    alone,
                    others,
                    spent,
                };
                want.ask.map(|ask| (ask.reply, refused))
            }
            Decision::Nothing | Decision::NoPool => want.ask.map(|ask| (ask.reply, LeaseAnswer::Unavailable)),
        }
    }

    /// Handles a failed transaction. `perhaps_committed`: the requested lease may exist, so it is owed.
    pub(crate) fn give_up(&self, work: Work, perhaps_committed: bool) -> Option<Delivery> {
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
        want.ask.map(|ask| (ask.reply, LeaseAnswer::Unavailable))
    }

    /// Drops the transaction's work, because another service ended its run.
    pub(crate) fn drop_work(&self) {
        self.core().transaction_ended(false);
    }

    fn publish_grant(
        &self,
        core: &mut Core,
        want: Want,
        units: i64,
        pool: Pool,
        alone: bool,
        now: Instant,
    ) -> Option<Delivery> {
        // Reserve the units of the waiting request before the lease is published. Otherwise other requests could spend them each
        // time.
        let reserved = want.ask.as_ref().map_or(0, |ask| ask.cost);
        let lease = Lease::new(units, reserved);
        let lease = Arc::new(HeldLease::new(want.lease_id, lease, &self.signals));
        let held = self.held.load_full();
        let opened = if core.epoch == want.epoch && !self.signals.requests.is_draining() {
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
                alone,
            };
            let open_units = opened.open_units();
            core.last_grant = Some(LastGrant {
                units,
                held: open_units,
                at: now,
            });
            self.held.store(Arc::new(opened));
            if let Some(retired) = retired {
                core.close(retired, want.period);
            }
            open_units
        } else {
            // The counter was closed meanwhile (limit, plan, period), so only the waiting request gets units of the lease.
            core.close(Arc::clone(&lease), want.period);
            0
        };
        let ask = want.ask?;
        let hit = Hit {
            reservation: Reservation::of(&lease, ask.cost),
            seen: Seen {
                held: opened,
                pool,
                is_current: alone,
            },
            renew: false,
        };
        Some((ask.reply, LeaseAnswer::Granted(hit)))
    }
}

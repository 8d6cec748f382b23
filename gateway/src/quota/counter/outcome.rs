//! What a transaction of the broker's decided, taken over.

use std::{sync::Arc, time::Instant};

use protocol::{grant::Pool, lease::Lease};
use schema::UsageType;

use super::{
    Counter, Hit,
    closing::Closing,
    held::Held,
    locked::{Core, LastGrant},
};
use crate::{
    accounts::account::Account,
    quota::view::Seen,
    quota::{
        leases::{Answer, Decision, Delivery, Desk, Want, Work},
        reservation::{HeldLease, Reservation},
    },
};

/// What publishing a grant takes beside the grant.
pub(crate) struct Publication<'a> {
    pub account: &'a Arc<Account>,
    pub usage_type: UsageType,
    pub desk: &'a Arc<Desk>,
    pub alone: bool,
    pub now: Instant,
}

impl Counter {
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
}

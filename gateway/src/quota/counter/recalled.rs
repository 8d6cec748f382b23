//! A counter whose units another gateway asks for: it is closed, and whoever recalled them is told once Postgres has them.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Counter, closing::Closing, locked::Core};
use crate::quota::refusals::REMEMBERED_FOR;

/// Refusals of other gateways that counted on us are told of units that come back here: as long as they are remembered, and
/// as long as it took to get from the recall to the refusal.
const WATCHED_FOR: Duration = REMEMBERED_FOR.saturating_add(Duration::from_secs(10));
/// Recalls of one counter that can wait for its transaction at the same time; more are told that it cannot.
const WAITING_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Recalls {
    waiting: Vec<Waiting>,
    /// Until then just what requests cost is asked for: a surplus would be held here while the one who recalled is refused.
    scarce_until: Option<Instant>,
    watched_until: Option<Instant>,
}

struct Waiting {
    /// Transactions of this counter until all that it had is given back.
    transactions: u8,
    /// Whether they committed.
    told: oneshot::Sender<bool>,
}

/// What a recall finds.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    /// Units are on their way back; true: Postgres has them, false: nobody knows when.
    Units(oneshot::Receiver<bool>),
    TooMany,
}

impl Counter {
    /// Somebody is about to refuse: the pool is nearly spent. From here on others are told when units come back here.
    pub fn note_recall(&self, now: Instant, scarce_for: Duration) {
        let mut core = self.core();
        core.recalls.scarce_until = Some(now + scarce_for);
        core.recalls.watched_until = Some(now + WATCHED_FOR);
        self.watched.store(true, Ordering::Release);
    }

    /// Closes what is held of this period. The caller brings the counter to the broker's attention, if units were found.
    pub fn recall(&self, period_start: i64) -> Found {
        let mut core = self.core();
        // A lease that is on its way here is closed when it comes: it would be held after we said that nothing is.
        core.epoch += 1;
        if self.held.load().period.start == period_start {
            core.last_grant = None;
            self.close_open(&mut core);
        }
        if !core.owes_units() && !core.asking {
            return Found::Nothing;
        }
        core.recalls.waiting.retain(|waiting| !waiting.told.is_closed());
        if core.recalls.waiting.len() >= WAITING_MAX {
            return Found::TooMany;
        }
        let (told, tells) = oneshot::channel();
        // One under way began before the counter was closed.
        let transactions = if core.under_way { 2 } else { 1 };
        core.recalls.waiting.push(Waiting { transactions, told });
        Found::Units(tells)
    }

    /// Units that were reserved can be spent again, or go back. True: other gateways are to be told, since they may remember
    /// a refusal from when those were reserved. One that did not ask us then remembers it for a moment only.
    pub fn units_came_back(&self, units: i64) -> bool {
        self.refusals.came_back(units);
        if !self.watched.load(Ordering::Acquire) {
            return false;
        }
        let core = self.core();
        let watched = core.recalls.watched_until.is_some_and(|until| Instant::now() < until);
        self.watched.store(watched, Ordering::Release);
        watched
    }
}

impl Core {
    pub(super) fn is_scarce(&self, now: Instant) -> bool {
        self.recalls.scarce_until.is_some_and(|until| now < until)
    }

    /// Also where nobody knows whether there are any.
    pub(super) fn owes_units(&self) -> bool {
        let owes = |closing: &Closing| closing.lease.is_none() || closing.owed() > 0;
        self.closing.iter().any(owes)
    }

    /// A transaction of this counter ended.
    pub(super) fn transaction_ended(&mut self, committed: bool) {
        self.under_way = false;
        self.asking = false;
        let all_back = !self.owes_units();
        for mut waiting in std::mem::take(&mut self.recalls.waiting) {
            waiting.transactions -= 1;
            if committed && !all_back && waiting.transactions > 0 {
                self.recalls.waiting.push(waiting);
            } else {
                // Nobody waits any more where this fails.
                waiting.told.send(committed).ok();
            }
        }
    }

    pub(super) fn forget_recalls(&mut self) {
        self.recalls.waiting.clear();
    }
}

#[cfg(test)]
mod tests;

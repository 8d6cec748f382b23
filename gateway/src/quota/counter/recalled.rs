//! A recall: another gateway asks for a counter's units. The counter is closed, and the recall is answered once PostgreSQL
//! has the units.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Counter, closing::Closing, locked::Core};
use crate::quota::refusals::REMEMBERED_FOR;

/// How long after a recall this gateway announces units that come back: as long as others remember the refusal, plus the time
/// from the recall to the refusal.
const WATCHED_FOR: Duration = REMEMBERED_FOR.saturating_add(Duration::from_secs(10));
/// Recalls of one counter that can wait for its transaction at the same time. More are answered "cannot".
const WAITING_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Recalls {
    waiting: Vec<Waiting>,
    /// Until then a lease covers only the cost of its request. Otherwise this gateway would hold spare units while the gateway
    /// that recalled refuses requests.
    scarce_until: Option<Instant>,
}

struct Waiting {
    /// How many transactions of this counter must end before all its units are given back.
    transactions: u8,
    /// Whether they committed.
    result: oneshot::Sender<bool>,
}

/// The result of a recall at this gateway.
#[derive(Debug)]
pub(crate) enum RecallFound {
    Nothing,
    /// Units are on their way back. The receiver gets `true` when PostgreSQL has them, `false` if the transaction failed.
    Units(oneshot::Receiver<bool>),
    TooMany,
}

impl Counter {
    /// Notes that another gateway is about to refuse, because the pool is nearly spent. From now on, this gateway announces units
    /// that come back.
    pub(crate) fn note_recall(&self, now: Instant, scarce_for: Duration) {
        self.core().recalls.scarce_until = Some(now + scarce_for);
        self.signals.watch(now + WATCHED_FOR);
    }

    /// Closes the leases of this period and has their units given back.
    pub(crate) fn recall(&self, period_start: i64) -> RecallFound {
        let mut core = self.core();
        // Close a lease that is on its way when it arrives. Otherwise this gateway would hold it after it answered "nothing".
        core.epoch += 1;
        if self.held.load().period.start == period_start {
            core.last_grant = None;
            self.close_open(&mut core);
        }
        if !core.owes_units() && !core.asking {
            return RecallFound::Nothing;
        }
        core.recalls.waiting.retain(|waiting| !waiting.result.is_closed());
        if core.recalls.waiting.len() >= WAITING_MAX {
            return RecallFound::TooMany;
        }
        let (result, receiver) = oneshot::channel();
        // A transaction that is in progress began before the counter was closed.
        let transactions = if core.under_way { 2 } else { 1 };
        core.recalls.waiting.push(Waiting { transactions, result });
        drop(core);
        self.request_service();
        RecallFound::Units(receiver)
    }
}

impl Core {
    pub(super) fn is_scarce(&self, now: Instant) -> bool {
        self.recalls.scarce_until.is_some_and(|until| now < until)
    }

    /// Also if it is unknown whether the lease exists.
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
                // The recall may have timed out already.
                waiting.result.send(committed).ok();
            }
        }
    }

    pub(super) fn forget_recalls(&mut self) {
        self.recalls.waiting.clear();
    }
}

#[cfg(test)]
mod tests;

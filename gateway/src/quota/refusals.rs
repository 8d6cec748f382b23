//! A counter's memory of its last refusal: how many units remained, in the pool and at all gateways together. While this
//! number is valid, a request that costs more is refused without a question to PostgreSQL or to other gateways. The number also
//! serves the requests that waited in the queue.
//!
//! Units that move between a pool and a gateway do not change it. Reserved units that come back are added to the units that
//! remained ([`Refusals::came_back`]). If it is unknown how many came back, or a limit changed, the memory is no longer valid
//! ([`Refusals::void`]). Both are counters, and a refusal carries their values from before the question. So nothing that happens
//! between a question and its answer is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use schema::Period;

use super::view::{Seen, Spent};

/// The longest time that a refusal is remembered. It limits the effect of lost announcements.
pub(crate) const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// The same if a gateway that may hold units could not be asked, or if announcements do not arrive: then the return of units would
/// not be announced.
pub(crate) const UNSURE_FOR: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    known: ArcSwapOption<Known>,
    epoch: AtomicU64,
    came_back: AtomicI64,
}

/// The moment of a question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    epoch: u64,
    came_back: i64,
}

#[derive(Debug)]
struct Known {
    question: Question,
    period: Period,
    /// Units that remained in the pool and at all gateways.
    remained: i64,
    seen: Seen,
    /// If it was the spend cap that refused.
    spent: Option<Spent>,
    until: Instant,
}

impl Refusals {
    /// `units` can be spent again, here or at another gateway.
    pub(crate) fn came_back(&self, units: i64) {
        // It may wrap around, because only differences are used.
        self.came_back.fetch_add(units, Ordering::SeqCst);
    }

    /// Invalidates the remembered refusal and one that is being asked for: any number of units may have come back.
    pub(crate) fn void(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Taken before PostgreSQL is asked; see [`Refusals::remember`].
    pub(crate) fn question(&self) -> Question {
        Question {
            epoch: self.epoch.load(Ordering::SeqCst),
            came_back: self.came_back.load(Ordering::SeqCst),
        }
    }

    pub(crate) fn remember(&self, question: Question, period: Period, remained: i64, seen: Seen, until: Instant) {
        self.known.store(Some(Arc::new(Known {
            question,
            period,
            remained,
            seen,
            spent: None,
            until,
        })));
    }

    /// The same for a refusal by the spend cap. Usage of other types changes what the cap allows, so it is not remembered for long.
    pub(crate) fn remember_spent(&self, question: Question, period: Period, remained: i64, spent: Spent) {
        self.known.store(Some(Arc::new(Known {
            question,
            period,
            remained,
            seen: Seen::default(),
            spent: Some(spent),
            until: Instant::now() + UNSURE_FOR,
        })));
    }

    /// The numbers of the refusal, if still fewer than `cost` units remain. No lock.
    pub(crate) fn known(&self, period: &Period, cost: i64, now: impl FnOnce() -> Instant) -> Option<Seen> {
        self.of_known(period, cost, now, |known| Some(known.seen))
    }

    /// What was spent at the refusal by the spend cap, if still fewer than `cost` units remain. No lock.
    pub(crate) fn known_spent(&self, period: &Period, cost: i64) -> Option<Spent> {
        self.of_known(period, cost, Instant::now, |known| known.spent)
    }

    fn of_known<T>(
        &self,
        period: &Period,
        cost: i64,
        now: impl FnOnce() -> Instant,
        of: impl FnOnce(&Known) -> Option<T>,
    ) -> Option<T> {
        let known = self.known.load();
        let known = known
            .as_ref()
            .filter(|known| known.remained < cost && known.period == *period)?;
        let asked = self.question();
        let came_back = asked.came_back.wrapping_sub(known.question.came_back);
        let holds = asked.epoch == known.question.epoch && known.remained.saturating_add(came_back) < cost;
        if holds && now() < known.until { of(known) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::grant::Pool;

    const PERIOD: Period = Period { start: 0, end: 100 };
    const SEEN: Seen = Seen {
        held: 0,
        pool: Pool { limit: 10, granted: 7 },
        is_current: false,
    };

    #[test]
    fn more_than_remained_is_refused_until_time_or_period_ends() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let known = |cost, now| refusals.known(&PERIOD, cost, || now);
        assert_eq!(known(1, start), None, "nothing is remembered yet");
        refusals.remember(refusals.question(), PERIOD, 3, SEEN, start + REMEMBERED_FOR);
        assert_eq!(known(4, start), Some(SEEN));
        assert_eq!(known(3, start), None, "3 remained: it may be admitted");
        assert_eq!(known(4, start + REMEMBERED_FOR), None);
        let next = Period { start: 100, end: 200 };
        assert_eq!(refusals.known(&next, 4, || start), None);
    }

    #[test]
    fn returned_units_are_added_even_if_they_come_back_before_the_answer() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let known = |cost| refusals.known(&PERIOD, cost, || start);
        let question = refusals.question();
        refusals.came_back(5);
        refusals.remember(question, PERIOD, 3, SEEN, start + REMEMBERED_FOR);
        assert_eq!((known(8), known(9)), (None, Some(SEEN)));
        refusals.came_back(1);
        assert_eq!((known(9), known(10)), (None, Some(SEEN)));
        refusals.remember(refusals.question(), PERIOD, 3, SEEN, start + REMEMBERED_FOR);
        assert_eq!(known(4), Some(SEEN));
    }

    #[test]
    fn a_change_voids_a_refusal_even_if_it_comes_before_the_answer() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let known = || refusals.known(&PERIOD, 4, || start);
        let question = refusals.question();
        refusals.remember(question, PERIOD, 3, SEEN, start + REMEMBERED_FOR);
        assert_eq!(known(), Some(SEEN));
        refusals.void();
        assert_eq!(known(), None);
        refusals.remember(question, PERIOD, 3, SEEN, start + REMEMBERED_FOR);
        assert_eq!(known(), None, "it was asked before");
        refusals.remember(refusals.question(), PERIOD, 3, SEEN, start + REMEMBERED_FOR);
        assert_eq!(known(), Some(SEEN));
    }
}

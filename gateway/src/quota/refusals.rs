//! What a counter remembers of its last refusal: "fewer than so many units remain", in the pool and with all gateways
//! together. While that holds, a request that costs more is refused without asking anybody.
//!
//! Units that move between a pool and a gateway change nothing about it. Units that come back from having been reserved are
//! added to what remained ([`Refusals::came_back`]); where it is not known how many came back, or a limit changed, nothing
//! holds any more ([`Refusals::void`]). Both count up, and a refusal is of the counts when its question was asked: so what
//! happens between a question and its answer is not forgotten with the answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use schema::Period;

use super::view::Seen;

/// How long a refusal is remembered at the most, whatever is announced or lost.
pub(crate) const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// How long if somebody may hold units who could not be asked, or if announcements do not come through: nobody would tell
/// when they can be had again.
pub(crate) const UNSURE_FOR: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    known: ArcSwapOption<Known>,
    epoch: AtomicU64,
    came_back: AtomicI64,
}

/// When a question was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    epoch: u64,
    came_back: i64,
}

#[derive(Debug)]
struct Known {
    question: Question,
    period: Period,
    /// Units that remained in all.
    remained: i64,
    seen: Seen,
    until: Instant,
}

impl Refusals {
    /// So many units can be spent again, here or elsewhere.
    pub fn came_back(&self, units: i64) {
        // It wraps, and only differences are looked at.
        self.came_back.fetch_add(units, Ordering::SeqCst);
    }

    /// Any number of units may have come back: whatever is remembered, or is being asked, is of before.
    pub fn void(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Taken before Postgres is asked; see [`Refusals::remember`].
    pub fn question(&self) -> Question {
        Question {
            epoch: self.epoch.load(Ordering::SeqCst),
            came_back: self.came_back.load(Ordering::SeqCst),
        }
    }

    pub fn remember(&self, question: Question, period: Period, remained: i64, seen: Seen, until: Instant) {
        self.known.store(Some(Arc::new(Known {
            question,
            period,
            remained,
            seen,
            until,
        })));
    }

    /// What was seen when fewer than `cost` units remained, if that still holds. No lock.
    pub fn known(&self, period: &Period, cost: i64, now: impl FnOnce() -> Instant) -> Option<Seen> {
        let known = self.known.load();
        let known = known
            .as_ref()
            .filter(|known| known.remained < cost && known.period == *period)?;
        let asked = self.question();
        let came_back = asked.came_back.wrapping_sub(known.question.came_back);
        let holds = asked.epoch == known.question.epoch && known.remained.saturating_add(came_back) < cost;
        (holds && now() < known.until).then_some(known.seen)
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
    fn units_that_come_back_are_added_to_what_remained_also_while_it_is_being_asked() {
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
    fn what_may_have_changed_voids_it_also_while_it_is_being_asked() {
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

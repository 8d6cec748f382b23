//! The queue before a counter: one request at a time asks Postgres, in the order of arrival, and its answer serves those
//! who waited behind it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use schema::Period;
use tokio::sync::{Mutex, MutexGuard};

use crate::quota::admission::QuotaView;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    turn: Mutex<Option<LastRefusal>>,
    waiting: AtomicUsize,
    arrivals: AtomicU64,
}

/// A place in the queue; left when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    queue: &'a Queue,
    ticket: u64,
}

/// The one who may ask.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    queue: &'a Queue,
    ticket: u64,
    last: MutexGuard<'a, Option<LastRefusal>>,
}

#[derive(Debug)]
struct LastRefusal {
    /// Tickets below this one were waiting when the question was asked.
    asked_at: u64,
    /// Units that remained in all, here and in the pool.
    remained: i64,
    view: QuotaView,
}

impl Queue {
    /// A place, unless `most` are taken.
    pub fn join(&self, most: usize) -> Option<Place<'_>> {
        let place = Place {
            queue: self,
            ticket: self.arrivals.fetch_add(1, Ordering::SeqCst),
        };
        // The place counts itself out again when it is dropped.
        (self.waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl<'a> Place<'a> {
    pub async fn turn(&self) -> Turn<'a> {
        Turn {
            queue: self.queue,
            ticket: self.ticket,
            last: self.queue.turn.lock().await,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turn<'_> {
    /// The refusal that somebody ahead was given for this period, if it answers this cost as well: fewer units remained, and
    /// this request was waiting when they were counted. One that came later must ask again: units may have come back since.
    pub fn known_refusal(&self, period: &Period, cost: i64) -> Option<QuotaView> {
        self.last
            .as_ref()
            .filter(|last| self.ticket < last.asked_at && last.view.period == *period && last.remained < cost)
            .map(|last| last.view)
    }

    /// Taken before a question is asked; see [`Turn::refused`].
    pub fn asking(&self) -> u64 {
        self.queue.arrivals.load(Ordering::SeqCst)
    }

    /// Remembers a refusal for those who wait behind.
    pub fn refused(&mut self, asked_at: u64, remained: i64, view: QuotaView) {
        *self.last = Some(LastRefusal {
            asked_at,
            remained,
            view,
        });
    }
}

#[cfg(test)]
mod tests {
    use schema::Mode;

    use super::*;

    const VIEW: QuotaView = QuotaView {
        mode: Mode::Limited,
        limit: 10,
        remaining: 3,
        current_usage: 7,
        period: Period { start: 0, end: 100 },
    };

    #[tokio::test]
    async fn a_refusal_answers_those_who_waited_when_it_was_asked_and_need_more_than_remained() {
        let queue = Queue::default();
        let (first, second) = (queue.join(9).unwrap(), queue.join(9).unwrap());
        let mut turn = first.turn().await;
        let asked_at = turn.asking();
        let late = queue.join(9).unwrap();
        turn.refused(asked_at, 3, VIEW);
        assert_eq!(turn.known_refusal(&VIEW.period, 4), Some(VIEW));
        drop(turn);

        let turn = second.turn().await;
        assert_eq!(turn.known_refusal(&VIEW.period, 4), Some(VIEW));
        assert_eq!(
            turn.known_refusal(&VIEW.period, 3),
            None,
            "3 remained: it may be admitted"
        );
        assert_eq!(turn.known_refusal(&Period { start: 100, end: 200 }, 4), None);
        drop(turn);
        assert_eq!(late.turn().await.known_refusal(&VIEW.period, 4), None);
    }

    #[test]
    fn places_are_bounded_and_free_again_when_left() {
        let queue = Queue::default();
        let (first, second) = (queue.join(2), queue.join(2));
        assert!(first.is_some() && second.is_some());
        assert!(queue.join(2).is_none());
        drop(first);
        assert!(queue.join(2).is_some());
    }
}

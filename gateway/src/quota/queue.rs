//! The queue of a counter: requests ask for a lease one at a time, in the order of arrival. The requests behind use the same
//! lease, or the same refusal ([`super::refusals`]).

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
pub(crate) struct Queue {
    asking: Mutex<()>,
    waiting: AtomicUsize,
}

/// A slot in the queue; freed when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    queue: &'a Queue,
}

impl Queue {
    /// Takes a slot, unless `most` are taken.
    pub(crate) fn join(&self, most: usize) -> Option<Slot<'_>> {
        let slot = Slot { queue: self };
        // If all are taken, the slot is dropped here, which decrements the count again.
        (self.waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(slot)
    }
}

impl<'a> Slot<'a> {
    /// Waits until no request ahead asks for a lease. While the guard exists, no request behind asks.
    pub(crate) async fn reached(&self) -> MutexGuard<'a, ()> {
        self.queue.asking.lock().await
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_and_free_again_when_left() {
        let queue = Queue::default();
        let (first, second) = (queue.join(2), queue.join(2));
        assert!(first.is_some() && second.is_some());
        assert!(queue.join(2).is_none());
        drop(first);
        assert!(queue.join(2).is_some());
    }

    #[tokio::test]
    async fn one_asks_at_a_time_in_the_order_of_arrival() {
        let queue = Queue::default();
        let (first, second, third) = (queue.join(9).unwrap(), queue.join(9).unwrap(), queue.join(9).unwrap());
        let asking = first.reached().await;
        let (mut next, mut last) = (Box::pin(second.reached()), Box::pin(third.reached()));
        assert!(futures_util::poll!(&mut next).is_pending());
        assert!(futures_util::poll!(&mut last).is_pending());
        drop(asking);
        assert!(futures_util::poll!(&mut last).is_pending(), "the second is ahead");
        assert!(futures_util::poll!(&mut next).is_ready());
    }
}

//! The outbox: events that wait for their delivery to an endpoint.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::options::WebhookBehavior;

/// Shuffled events are delayed by a random time up to this.
const SHUFFLE_WITHIN: Duration = Duration::from_millis(100);

/// The outbox is checked at least this often, because the clock may have advanced.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Delivery attempts that are still to be made.
pub(crate) struct Outbox {
    pub behavior: WebhookBehavior,
    pub waiting: Vec<Waiting>,
    pub under_way: usize,
    pub random: StdRng,
}

#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub event: String,
    pub endpoint: String,
    pub tries: u32,
    pub at: Instant,
}

impl Outbox {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            behavior: WebhookBehavior::default(),
            waiting: Vec::new(),
            under_way: 0,
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn put(&mut self, event: &str, endpoint: &str) {
        if self.behavior.hold {
            return;
        }
        let at = Instant::now() + self.behavior.delay;
        for _ in 0..self.behavior.copies.max(1) {
            let within = if self.behavior.shuffle {
                SHUFFLE_WITHIN
            } else {
                Duration::ZERO
            };
            let at = at + within.mul_f64(self.random.random());
            let (event, endpoint) = (event.to_owned(), endpoint.to_owned());
            self.waiting.push(Waiting {
                event,
                endpoint,
                tries: 0,
                at,
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }

    /// The attempts that are due, and the time of the next one.
    pub(crate) fn take(&mut self, now: Instant, max: usize) -> (Vec<Waiting>, Instant) {
        let (mut due, mut later): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|waiting| waiting.at <= now);
        due.sort_by_key(|waiting| waiting.at);
        let rest = due.split_off(due.len().min(max));
        later.splice(0..0, rest);
        self.under_way += due.len();
        let next = later.iter().map(|waiting| waiting.at).min().unwrap_or(now + LOOK_EVERY);
        self.waiting = later;
        (due, next.max(now).min(now + LOOK_EVERY))
    }

    pub(crate) fn again(&mut self, waiting: Waiting) {
        let behavior = &self.behavior;
        if waiting.tries + 1 >= behavior.attempts_max {
            return;
        }
        let delays = &behavior.retry_after;
        let nth = usize::try_from(waiting.tries).unwrap_or(usize::MAX);
        let delay = delays.get(nth).or(delays.last()).copied().unwrap_or(LOOK_EVERY);
        self.waiting.push(Waiting {
            tries: waiting.tries + 1,
            at: Instant::now() + delay,
            ..waiting
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(behavior: WebhookBehavior) -> Outbox {
        Outbox {
            behavior,
            ..Outbox::new(1)
        }
    }

    #[tokio::test]
    async fn events_that_are_not_taken_stay_in_order() {
        let mut outbox = outbox(WebhookBehavior::default());
        ["a", "b", "c"].iter().for_each(|event| outbox.put(event, "we"));
        let names = |due: Vec<Waiting>| due.into_iter().map(|waiting| waiting.event).collect::<Vec<_>>();
        assert_eq!(names(outbox.take(Instant::now(), 2).0), ["a", "b"]);
        assert!(!outbox.is_empty());
        assert_eq!(names(outbox.take(Instant::now(), 2).0), ["c"]);
    }

    #[tokio::test]
    async fn attempts_are_bounded() {
        let retry_after = vec![Duration::ZERO];
        let mut outbox = outbox(WebhookBehavior {
            attempts_max: 3,
            retry_after,
            ..WebhookBehavior::default()
        });
        outbox.put("a", "we");
        let mut attempts = 0;
        while let Some(waiting) = outbox.take(Instant::now() + Duration::from_secs(1), 8).0.pop() {
            (attempts, outbox.under_way) = (attempts + 1, 0);
            outbox.again(waiting);
        }
        assert_eq!(attempts, 3);
        assert!(outbox.is_empty());
    }

    #[tokio::test]
    async fn held_events_are_not_sent() {
        let mut outbox = outbox(WebhookBehavior {
            hold: true,
            ..WebhookBehavior::default()
        });
        outbox.put("a", "we");
        assert!(outbox.is_empty());
    }
}

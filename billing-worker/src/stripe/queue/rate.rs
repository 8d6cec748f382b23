//! A number of calls per second, in time. No I/O.

use std::time::{Duration, Instant};

/// Admits at most `n` calls in any second: a few at once, the others evenly.
///
/// Evenly, because a row of calls at the start of each second would make the next caller wait for the rest of it. With `burst`
/// calls at once and one more every `interval`, a second has at most `burst − 1 + 1 s / interval` calls, which is `n`.
pub(super) struct Rate {
    interval: Duration,
    burst: u32,
    /// When all calls so far are made up for.
    idle_at: Option<Instant>,
}

impl Rate {
    pub(super) fn per_second(n: u32) -> Self {
        let burst = (n / 10).max(1);
        Self {
            // Rounded up, so that a second has no call too many.
            interval: Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(n.max(1) - (burst - 1)))),
            burst,
            idle_at: None,
        }
    }

    /// When the next call is possible; `None`: now.
    pub(super) fn free_at(&self, now: Instant) -> Option<Instant> {
        let at = self.idle_at?.checked_sub(self.interval * (self.burst - 1))?;
        Some(at).filter(|at| *at > now)
    }

    /// Counts a call.
    pub(super) fn take(&mut self, now: Instant) {
        let from = self.idle_at.map_or(now, |at| at.max(now));
        self.idle_at = Some(from + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of all calls of callers that never stop asking.
    fn times(rate: &mut Rate, begin: Instant, until: Duration) -> Vec<Duration> {
        let (mut now, mut times) = (begin, Vec::new());
        while now - begin < until {
            match rate.free_at(now) {
                Some(at) => now = at,
                None => {
                    rate.take(now);
                    times.push(now - begin);
                }
            }
        }
        times
    }

    #[test]
    fn no_second_has_more_calls_and_few_have_less() {
        for n in [1, 2, 5, 9, 10, 25, 100, 999, 1_000, 10_000] {
            let (mut rate, begin) = (Rate::per_second(n), Instant::now());
            let times = times(&mut rate, begin, Duration::from_secs(10));
            let n = n as usize;
            for (at, first) in times.iter().enumerate() {
                let end = *first + Duration::from_secs(1) - Duration::from_micros(1);
                let in_second = times.partition_point(|time| *time < end) - at;
                assert!(in_second <= n, "{n}: {in_second} from {first:?}");
            }
            assert!(times.len() >= n * 9, "{n}: {} in ten seconds", times.len());
        }
    }

    #[test]
    fn a_pause_gives_back_no_more_than_the_burst() {
        let (mut rate, begin) = (Rate::per_second(100), Instant::now());
        times(&mut rate, begin, Duration::from_secs(1));
        let later = begin + Duration::from_secs(3_600);
        let at_once = (0..1_000).take_while(|_| {
            let is_free = rate.free_at(later).is_none();
            rate.take(later);
            is_free
        });
        assert_eq!(at_once.count(), 10);
    }
}

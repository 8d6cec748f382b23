//! The burst limit of a key: how quickly it may send requests, according to its plan. It is checked right after the key, and a
//! refused request does not count as usage.
//!
//! Each gateway counts separately. A shared count would need a network call for each request, and the limit only protects this
//! gateway and the API behind it. A key's bucket is one atomic next to the key in the cache. When the plan changes, the key gets
//! a new, full bucket.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use schema::Burst;

/// A key's bucket at one moment, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BurstView {
    pub burst: Burst,
    /// How many requests may follow at once.
    pub remaining: u32,
}

/// The key's bucket is empty. The next request is possible after `wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFast {
    pub burst: Burst,
    pub wait: Duration,
}

/// A key's bucket. The first request with a limit creates it.
#[derive(Default)]
pub struct Bucket {
    limiter: ArcSwapOption<Limiter>,
}

struct Limiter {
    burst: Burst,
    governor: RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
}

impl Bucket {
    pub fn take(&self, burst: Burst) -> Result<BurstView, TooFast> {
        if let Some(limiter) = self.limiter.load().as_ref().filter(|limiter| limiter.burst == burst) {
            return limiter.take();
        }
        // The first request creates the limiter. Concurrent requests use the same one.
        self.limiter.rcu(|limiter| match limiter {
            Some(limiter) if limiter.burst == burst => Some(Arc::clone(limiter)),
            _ => Some(Arc::new(Limiter::new(burst))),
        });
        match &*self.limiter.load() {
            Some(limiter) => limiter.take(),
            None => Ok(BurstView { burst, remaining: 0 }),
        }
    }
}

impl Limiter {
    fn new(burst: Burst) -> Self {
        let quota = Quota::per_second(burst.per_second).allow_burst(burst.size);
        Self {
            burst,
            governor: RateLimiter::direct(quota).with_middleware(),
            clock: DefaultClock::default(),
        }
    }

    fn take(&self) -> Result<BurstView, TooFast> {
        match self.governor.check() {
            Ok(state) => Ok(BurstView {
                burst: self.burst,
                remaining: state.remaining_burst_capacity(),
            }),
            Err(until) => Err(TooFast {
                burst: self.burst,
                wait: until.wait_time_from(self.clock.now()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn burst(per_second: u32, size: u32) -> Burst {
        let some = |n| NonZeroU32::new(n).unwrap();
        Burst {
            per_second: some(per_second),
            size: some(size),
        }
    }

    #[test]
    fn a_bucket_gives_its_size_at_once_and_then_says_how_long_to_wait() {
        let (bucket, slow) = (Bucket::default(), burst(1, 3));
        let remaining: Vec<_> = (0..3).map(|_| bucket.take(slow).unwrap().remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let wait = bucket.take(slow).unwrap_err().wait;
        assert!(
            wait > Duration::from_millis(500) && wait <= Duration::from_secs(1),
            "{wait:?}"
        );
    }

    #[test]
    fn another_plan_gives_another_bucket() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take(burst(1, 1)).unwrap().remaining, 0);
        assert!(bucket.take(burst(1, 1)).is_err());
        assert_eq!(bucket.take(burst(1, 2)).unwrap().remaining, 1);
    }

    #[test]
    fn threads_that_begin_together_share_one_bucket() {
        let (bucket, slow) = (Bucket::default(), burst(1, 100));
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..50).filter(|_| bucket.take(slow).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // On a slow machine, one request per second comes back meanwhile.
        assert!((100..105).contains(&taken), "{taken}");
    }
}

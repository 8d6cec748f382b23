//! The delay before the next try: it doubles, with jitter and an upper limit.

use std::time::Duration;

use rand::RngExt;

/// The values are `first`, twice that, and so on up to `most`. Each delay is random, from half of its value to the whole value.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, tries: 0 }
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1 << self.tries.min(20)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Tries so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Call it after a success: the next failure starts from the first delay again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_limit() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1_000));
        for whole in [100, 200, 400, 800, 1_000, 1_000] {
            let delay = backoff.next_delay();
            assert!(ms(whole / 2) <= delay && delay <= ms(whole), "{delay:?} of {whole} ms");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= ms(100));
    }
}

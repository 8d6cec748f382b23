//! Ids that look like Stripe's, `cus_…`. They are unique and unpredictable, so that no code builds one itself.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

pub(crate) struct Ids {
    random: StdRng,
    made: u64,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            made: 0,
        }
    }

    /// `<prefix>_<14 characters>`. The characters contain the number of ids so far, which makes each unique.
    pub(crate) fn next(&mut self, prefix: &str) -> String {
        self.made += 1;
        let (mut number, mut tail) = (self.made, String::new());
        while number > 0 {
            tail.insert(0, char::from(ALPHABET[usize::try_from(number % 62).unwrap_or(0)]));
            number /= 62;
        }
        let head = self.text(14_usize.saturating_sub(tail.len()));
        format!("{prefix}_{head}{tail}")
    }

    /// Random letters and digits.
    pub(crate) fn text(&mut self, length: usize) -> String {
        let mut letter = || char::from(ALPHABET[self.random.random_range(0..ALPHABET.len())]);
        (0..length).map(|_| letter()).collect()
    }
}

//! The double's clock: real time plus an offset, so that it ticks between the advances of a test. While due work is done, it is frozen
//! at the time of that work: what is due at the end of a period has that time, even if it is done later.

#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    offset_s: i64,
    frozen_at: Option<i64>,
}

impl Clock {
    pub(crate) fn starting_at(start: Option<i64>) -> Self {
        Self {
            offset_s: start.map_or(0, |start| start - now_s()),
            frozen_at: None,
        }
    }

    /// Unix seconds.
    pub(crate) fn now(&self) -> i64 {
        self.frozen_at.unwrap_or_else(|| now_s() + self.offset_s)
    }

    pub(crate) fn freeze_at(&mut self, at: i64) {
        self.frozen_at = Some(at);
    }

    pub(crate) fn unfreeze(&mut self) {
        self.frozen_at = None;
    }

    /// Ticks on from where it would be without the freeze, or from `at` if that is later.
    pub(crate) fn resume_from(&mut self, at: i64) {
        self.frozen_at = None;
        self.offset_s += (at - self.now()).max(0);
    }
}

/// The real time, Unix seconds.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the edge of the double: it reads the clock here only"
)]
pub(crate) fn now_s() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_never_goes_back() {
        let mut clock = Clock::starting_at(Some(1_000));
        clock.freeze_at(500);
        assert_eq!(clock.now(), 500);
        clock.resume_from(500);
        assert!((1_000..1_010).contains(&clock.now()), "it had been at 1000 before");
        clock.resume_from(5_000);
        assert!((5_000..5_010).contains(&clock.now()));
    }
}

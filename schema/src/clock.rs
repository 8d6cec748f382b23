//! The only place that reads the wall clock. Decisions take the result as an argument.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use time::OffsetDateTime;

/// A clock that tests can advance by months, and that a rehearsal freezes. Services run on one that is never touched.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead_s: Arc<AtomicI64>,
    /// [`RUNNING`]: it runs.
    frozen_at_s: Arc<Frozen>,
}

#[derive(Debug)]
struct Frozen(AtomicI64);

const RUNNING: i64 = i64::MIN;

impl Default for Frozen {
    fn default() -> Self {
        Self(AtomicI64::new(RUNNING))
    }
}

impl Clock {
    /// Seconds since the Unix epoch, rounded down.
    pub fn now_s(&self) -> i64 {
        match self.frozen_at_s.0.load(Ordering::Relaxed) {
            RUNNING => now_s() + self.ahead_s.load(Ordering::Relaxed),
            frozen => frozen,
        }
    }

    /// Stops the clock, and all its clones, at `at_s`, until it is frozen at another time. A test clock of Stripe stands still, too.
    pub fn freeze_at(&self, at_s: i64) {
        self.frozen_at_s.0.store(at_s, Ordering::Relaxed);
    }

    /// Sets the clock, and all its clones, to `at_s`. The clock continues from there.
    pub fn turn_to(&self, at_s: i64) {
        self.ahead_s.store(at_s - now_s(), Ordering::Relaxed);
    }
}

/// Deliberate error of the clock of this process, in milliseconds.
static WRONG_BY_MS: AtomicI64 = AtomicI64::new(0);

/// Makes the clock of this process wrong, as the clock of a machine can be. For tests.
pub fn set_wrong_by(ms: i64) {
    WRONG_BY_MS.store(ms, Ordering::Relaxed);
}

/// The current time in UTC.
#[expect(clippy::disallowed_methods, reason = "this is the edge that the rule points to")]
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    match WRONG_BY_MS.load(Ordering::Relaxed) {
        0 => now,
        ms => now + time::Duration::milliseconds(ms),
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    unix_ms(now())
}

/// Seconds since the Unix epoch, rounded down.
pub fn now_s() -> i64 {
    now().unix_timestamp()
}

/// Milliseconds since the Unix epoch of an instant, rounded down.
pub fn unix_ms(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1_000 + i64::from(at.millisecond())
}

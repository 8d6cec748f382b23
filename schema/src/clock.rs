//! The only place that reads the wall clock. Decisions take the result as an argument.

use std::sync::{
    Arc, OnceLock,
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

/// How to read the time.
type Source = fn() -> OffsetDateTime;

/// Replaces the machine's clock, in tests.
static INJECTED: OnceLock<Source> = OnceLock::new();
/// The right time, in a service that compares the machine's clock with others.
static CORRECTED: OnceLock<Source> = OnceLock::new();

/// Replaces the machine's clock in this process: tests start services on a machine with a wrong clock. Only the first call counts.
pub fn inject(source: Source) {
    INJECTED.set(source).ok();
}

/// From now on [`now`] is the time of `source`. Only the first call counts.
pub fn correct(source: Source) {
    CORRECTED.set(source).ok();
}

/// The time that the machine's clock shows, in UTC. It may be wrong, and jump.
#[expect(clippy::disallowed_methods, reason = "this is the edge that the rule points to")]
pub fn machine() -> OffsetDateTime {
    INJECTED.get().map_or_else(OffsetDateTime::now_utc, |source| source())
}

/// The current time in UTC.
pub fn now() -> OffsetDateTime {
    CORRECTED.get().map_or_else(machine, |source| source())
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

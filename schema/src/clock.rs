//! The one place that reads the wall clock. Decisions take the result as an argument.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use time::OffsetDateTime;

/// A clock that can be turned: for what has to be tried over months. Services run on one that nobody turns.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead_s: Arc<AtomicI64>,
}

impl Clock {
    /// Seconds since the Unix epoch, rounded down.
    pub fn now_s(&self) -> i64 {
        now_s() + self.ahead_s.load(Ordering::Relaxed)
    }

    /// Shows `at_s` from now on, and goes on from there; all clones do.
    pub fn turn_to(&self, at_s: i64) {
        self.ahead_s.store(at_s - now_s(), Ordering::Relaxed);
    }
}

/// Now, UTC.
#[allow(clippy::disallowed_methods, reason = "this is the edge that the rule points to")]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
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

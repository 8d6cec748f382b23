//! The one place that reads the wall clock. Decisions take the result as an argument.

use time::OffsetDateTime;

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

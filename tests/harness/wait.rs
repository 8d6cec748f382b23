//! Waits for conditions, never for a fixed time.

use std::time::{Duration, Instant};

/// Far longer than any operation takes, so that exceeding it is a failure and not a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A gateway applies an announced change within this time. Without the announcement it would find the change at its next
/// refresh: after 20 seconds (`REFRESH_INTERVAL`), or after a minute if it remembers a refusal.
pub const SOON: Duration = Duration::from_secs(15);

/// Polls until `count` is `all`. Panics with `what` if it did not grow for a time far longer than one step takes, so that a slow
/// machine only takes longer.
pub async fn until_all(what: &str, all: usize, mut count: impl AsyncFnMut() -> usize) {
    let (mut counted, mut end) = (0, Instant::now() + PATIENCE);
    while counted < all {
        let now = count().await;
        if now > counted {
            (counted, end) = (now, Instant::now() + PATIENCE);
        }
        assert!(Instant::now() < end, "stuck at {counted} of {all}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Polls until `probe` returns a value; panics with `what` if the deadline passes.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

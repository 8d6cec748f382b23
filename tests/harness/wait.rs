//! Waiting for conditions, never for a time.

use std::time::{Duration, Instant};

/// Far longer than anything takes, so that it is a failure and no slow machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// An announced change is seen within this time. Without the announcement a gateway would see it when it reads again by
/// itself: after 20 seconds (`REFRESH_INTERVAL`), or after a minute where it remembers a refusal.
pub const SOON: Duration = Duration::from_secs(15);

/// Waits until `probe` gives something; panics with `what` when it does not in time.
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

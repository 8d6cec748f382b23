//! Shifts the clock, to test a gateway on a machine with a wrong clock. Never use it in production.

use std::{path::PathBuf, time::Duration};

use schema::clock;
use service::Lifecycle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

const READ_EVERY: Duration = Duration::from_millis(100);

/// Shifts the clock by the number of milliseconds in `file`, until the service stops. Without a file or a number in it, the
/// clock is not shifted.
pub(super) fn follow(file: PathBuf, life: &Lifecycle) {
    warn!(file = %file.display(), "WRONG_CLOCK_FILE is set: this gateway's clock is shifted as the file says");
    let stopping = life.token();
    life.spawn(async move {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = 0;
        while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            let text = tokio::fs::read_to_string(&file).await.unwrap_or_default();
            let wrong_by_ms = text.trim().parse().unwrap_or(0);
            if wrong_by_ms != before {
                warn!(wrong_by_ms, "the clock is shifted");
                clock::set_wrong_by(wrong_by_ms);
                before = wrong_by_ms;
            }
        }
    });
}

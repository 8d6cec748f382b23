//! A clock that is wrong, for tests of what a machine's wrong clock does. Nobody who runs a gateway for others sets this.

use std::{path::PathBuf, time::Duration};

use schema::clock;
use service::Lifecycle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

const LOOK: Duration = Duration::from_millis(100);

/// Keeps the clock wrong by as many milliseconds as stand in `file`, until the service stops. No file, or no number in it:
/// the clock is right.
pub fn follow(file: PathBuf, life: &Lifecycle) {
    warn!(file = %file.display(), "WRONG_CLOCK_FILE is set: this gateway's clock is as wrong as the file says");
    let stopping = life.token();
    life.spawn(async move {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = 0;
        while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            let text = tokio::fs::read_to_string(&file).await.unwrap_or_default();
            let wrong_by_ms = text.trim().parse().unwrap_or(0);
            if wrong_by_ms != before {
                warn!(wrong_by_ms, "the clock is turned");
                clock::set_wrong_by(wrong_by_ms);
                before = wrong_by_ms;
            }
        }
    });
}

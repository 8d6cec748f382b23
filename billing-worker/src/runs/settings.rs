//! When a run counts as dead.

use std::time::Duration;

use clap::Args;
use service::settings::seconds;

#[derive(Args, Clone, Debug)]
pub struct SettleSettings {
    /// A run counts as dead when its heartbeat has not moved for this time: it is ended, and the unspent units of its leases are
    /// returned. Use several times the HEARTBEAT_INTERVAL of the gateways (seconds)
    #[arg(long, env = "RUN_DEAD_AFTER", default_value = "60", value_parser = seconds)]
    pub run_dead_after: Duration,
}

impl SettleSettings {
    /// How often heartbeats are checked.
    pub fn look_every(&self) -> Duration {
        (self.run_dead_after / 12).clamp(Duration::from_millis(50), Duration::from_secs(5))
    }

    /// Checks that are farther apart do not count together, because the worker saw nothing in between. A run needs at least five
    /// checks to count as dead. A worker that was stopped meanwhile starts the count again.
    pub fn gap_max(&self) -> Duration {
        self.run_dead_after / 4
    }
}

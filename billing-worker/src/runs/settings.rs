//! When a run counts as dead.

use std::time::Duration;

use clap::Args;
use service::{boot::Mistakes, settings::seconds};

#[derive(Args, Clone, Debug)]
pub struct SettleSettings {
    /// A run counts as dead when its heartbeat has not moved for this time: it is ended, and the unspent units of its leases are
    /// returned; at least twice HEARTBEAT_INTERVAL_MAX (seconds)
    #[arg(long, env = "RUN_DEAD_AFTER", default_value = "60", value_parser = seconds)]
    pub run_dead_after: Duration,

    /// The longest HEARTBEAT_INTERVAL of any gateway (seconds)
    #[arg(long, env = "HEARTBEAT_INTERVAL_MAX", default_value = "15", value_parser = seconds)]
    pub heartbeat_interval_max: Duration,
}

impl SettleSettings {
    /// With a shorter time, a worker would end the runs of live gateways between two of their heartbeats.
    pub fn check(&self, mistakes: &mut Mistakes) {
        let least = self.heartbeat_interval_max * 2;
        mistakes.ensure(
            self.run_dead_after >= least,
            "run_dead_after",
            format_args!(
                "must be at least {least:?}, twice HEARTBEAT_INTERVAL_MAX, otherwise live gateways count as dead, got {:?}",
                self.run_dead_after
            ),
        );
    }

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

//! When a run is taken for dead.

use std::time::Duration;

use clap::Args;
use service::settings::seconds;

#[derive(Args, Clone, Debug)]
pub struct SettleSettings {
    /// A run whose heartbeat stood still for so long, as this worker saw it, is ended, and what its leases had not spent goes
    /// back; several times the gateways' HEARTBEAT_INTERVAL (seconds)
    #[arg(long, env = "RUN_DEAD_AFTER", default_value = "60", value_parser = seconds)]
    pub run_dead_after: Duration,
}

impl SettleSettings {
    /// How often runs are looked at.
    pub fn look_every(&self) -> Duration {
        (self.run_dead_after / 12).clamp(Duration::from_millis(50), Duration::from_secs(5))
    }

    /// Looks that lie farther apart do not belong together: what happened between them was not seen. Five looks at the
    /// least are needed to take a run for dead, and a worker that was stopped meanwhile begins anew.
    pub fn gap_max(&self) -> Duration {
        self.run_dead_after / 4
    }
}

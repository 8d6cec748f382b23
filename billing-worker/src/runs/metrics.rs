//! Metrics of runs and of settling them.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use protocol::run::RunState;

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct SettleMetrics {
    runs: Family<OfState, Gauge>,
    oldest_s: Gauge<i64, AtomicI64>,
    pub(super) runs_ended: Counter<u64, AtomicU64>,
    pub(super) runs_settled: Counter<u64, AtomicU64>,
    pub(super) leases_settled: Counter<u64, AtomicU64>,
    pub(super) units_returned: Counter<u64, AtomicU64>,
    pub(super) leases_overspent: Gauge<i64, AtomicI64>,
    pub(super) leases_uncounted: Counter<u64, AtomicU64>,
    pub(super) failed: Counter<u64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

impl SettleMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "runs",
            "Runs that are not settled, by state: live, spooling, fencing (being ended), closed",
            self.runs.clone(),
        );
        let registry = registry.sub_registry_with_prefix("settle");
        registry.register(
            "oldest_unsettled_seconds",
            "Seconds since the last heartbeat of the oldest run that is being ended; its units have been unavailable since then",
            self.oldest_s.clone(),
        );
        registry.register(
            "runs_ended",
            "Silent runs that this worker has ended",
            self.runs_ended.clone(),
        );
        registry.register("runs_settled", "Runs settled", self.runs_settled.clone());
        registry.register(
            "leases_settled",
            "Leases of dead runs settled",
            self.leases_settled.clone(),
        );
        registry.register(
            "units_returned",
            "Units of dead runs returned to their pools",
            self.units_returned.clone(),
        );
        registry.register(
            "overspent_leases",
            "Leases whose counted usage exceeds their units: not settled, an operator must look",
            self.leases_overspent.clone(),
        );
        registry.register(
            "uncounted_leases",
            "Leases settled as fully spent because their rows may have been deleted",
            self.leases_uncounted.clone(),
        );
        registry.register(
            "failed",
            "Failed attempts to settle a run; they are retried",
            self.failed.clone(),
        );
    }

    /// Sets the number of runs in each state.
    pub(super) fn show(&self, counts: &[(RunState, i64)], oldest_s: i64) {
        for state in RunState::UNSETTLED {
            let found = counts.iter().find(|(counted, _)| *counted == state);
            let of = OfState { state: state.as_str() };
            self.runs.get_or_create(&of).set(found.map_or(0, |(_, count)| *count));
        }
        self.oldest_s.set(oldest_s);
    }
}

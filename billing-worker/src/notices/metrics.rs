//! Counters of usage notices, for the operator.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct NoticeMetrics {
    pub comparisons: Counter,
    pub comparisons_skipped: Counter,
    pub reached: Counter,
    pub published: Counter,
    pub pending: Gauge,
    attempts: Family<Attempt, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    outcome: &'static str,
}

impl NoticeMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("billing_notices");
        registry.register(
            "comparisons",
            "Comparisons of usage with thresholds",
            self.comparisons.clone(),
        );
        registry.register(
            "comparisons_skipped",
            "Comparisons that ClickHouse or PostgreSQL could not answer",
            self.comparisons_skipped.clone(),
        );
        registry.register("reached", "Thresholds found reached", self.reached.clone());
        registry.register("published", "Notices published on NATS", self.published.clone());
        registry.register(
            "pending",
            "Notices that wait to be sent, all workers",
            self.pending.clone(),
        );
        registry.register(
            "attempts",
            "Attempts to deliver, by outcome: delivered, again, failed (given up)",
            self.attempts.clone(),
        );
    }

    /// `outcome`: `delivered`, `again` or `failed`.
    pub fn attempted(&self, outcome: &'static str) {
        self.attempts.get_or_create(&Attempt { outcome }).inc();
    }
}

//! Metrics of usage notices.

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
            "Comparisons that failed because ClickHouse or PostgreSQL was unavailable",
            self.comparisons_skipped.clone(),
        );
        registry.register("reached", "Thresholds reached", self.reached.clone());
        registry.register("published", "Notices published on NATS", self.published.clone());
        registry.register("pending", "Pending notices of all workers", self.pending.clone());
        registry.register(
            "attempts",
            "Delivery attempts by outcome: delivered, again (will be retried), failed (given up)",
            self.attempts.clone(),
        );
    }

    /// `outcome`: `delivered`, `again` or `failed`.
    pub fn attempted(&self, outcome: &'static str) {
        self.attempts.get_or_create(&Attempt { outcome }).inc();
    }
}

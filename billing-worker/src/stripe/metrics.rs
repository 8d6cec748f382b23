//! Metrics of the calls to Stripe.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{queue::metrics::QueueMetrics, reason::Reason};

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct StripeMetrics {
    refused: Family<Refused, Counter>,
    pub(super) queue: QueueMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

impl StripeMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("stripe");
        self.queue.register(registry.sub_registry_with_prefix("queue"));
        registry.register(
            "refused",
            "4xx responses of Stripe by reason; key: this service's key is wrong or lacks a permission",
            self.refused.clone(),
        );
    }

    pub fn refused(&self, reason: Reason) {
        let reason = reason.as_str();
        self.refused.get_or_create(&Refused { reason }).inc();
    }
}

//! Metrics of the queue.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::class::Class;

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct QueueMetrics {
    waiting: Family<OfClass, Gauge>,
    wait_seconds: Family<OfClass, Histogram, fn() -> Histogram>,
    full: Family<OfClass, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: &'static str,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            waiting: Family::default(),
            // 1 ms to 32 s.
            wait_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 16))),
            full: Family::default(),
        }
    }
}

impl QueueMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "waiting",
            "Calls to Stripe that wait for the rate limit",
            self.waiting.clone(),
        );
        registry.register(
            "wait_seconds",
            "Time that calls to Stripe waited for the rate limit",
            self.wait_seconds.clone(),
        );
        registry.register(
            "full",
            "Calls to Stripe that were refused because too many waited",
            self.full.clone(),
        );
        for class in Class::ALL.map(of) {
            // A family shows a class from its first use on.
            drop(self.waiting.get_or_create(&class));
            drop(self.wait_seconds.get_or_create(&class));
            drop(self.full.get_or_create(&class));
        }
    }

    pub(super) fn entered(&self, class: Class) {
        self.waiting.get_or_create(&of(class)).inc();
    }

    pub(super) fn left(&self, class: Class) {
        self.waiting.get_or_create(&of(class)).dec();
    }

    pub(super) fn waited(&self, class: Class, duration: Duration) {
        self.wait_seconds
            .get_or_create(&of(class))
            .observe(duration.as_secs_f64());
    }

    pub(super) fn full(&self, class: Class) {
        self.full.get_or_create(&of(class)).inc();
    }

    #[cfg(test)]
    pub(super) fn waiting(&self, class: Class) -> i64 {
        self.waiting.get_or_create(&of(class)).get()
    }
}

fn of(class: Class) -> OfClass {
    OfClass { class: class.name() }
}

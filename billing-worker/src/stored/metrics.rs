//! Metrics of the watermark.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{
        counter::Counter,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct WatermarkMetrics {
    pub(super) wait_seconds: Histogram,
    pub(super) not_stored: Counter<u64, AtomicU64>,
}

impl Default for WatermarkMetrics {
    fn default() -> Self {
        Self {
            // From 5 ms to 41 s.
            wait_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            not_stored: Counter::default(),
        }
    }
}

impl WatermarkMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "watermark_wait_seconds",
            "Time until all acknowledged usage of an account was in ClickHouse, or until the wait was given up",
            self.wait_seconds.clone(),
        );
        registry.register(
            "usage_not_stored",
            "Waits that were given up: some acknowledged usage was not in ClickHouse yet",
            self.not_stored.clone(),
        );
    }
}

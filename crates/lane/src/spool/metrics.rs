//! Metrics of the spool.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Clone, Debug)]
pub struct SpoolMetrics {
    pub spooling: Gauge,
    pub bytes: Gauge,
    pub batches: Gauge,
    pub oldest_seconds: Gauge<f64, AtomicU64>,
    pub appended: Counter,
    pub drained: Counter,
    pub refused: Counter,
    pub failed: Counter,
    pub lost: Counter,
    pub fsync_seconds: Histogram,
    pub batches_per_write: Histogram,
}

impl SpoolMetrics {
    /// Registers the metrics in `registry`, which already has the writer's own prefix.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            (
                "spooling",
                "1: PostgreSQL has the run as spooling; 0: it does not",
                &self.spooling,
            ),
            ("bytes", "Bytes of the spool's segments", &self.bytes),
            (
                "batches",
                "Batches in the spool that are not known to be in the stream",
                &self.batches,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "oldest_seconds",
            "Age of the oldest batch that is not known to be in the stream",
            self.oldest_seconds.clone(),
        );
        for (name, help, counter) in [
            (
                "appended",
                "Batches that were acknowledged from the spool",
                &self.appended,
            ),
            ("drained", "Batches of the spool that reached the stream", &self.drained),
            (
                "refused",
                "Batches that the spool refused, because it was full or PostgreSQL had not recorded that the run spools",
                &self.refused,
            ),
            ("failed", "Writes to the spool that failed", &self.failed),
            (
                "lost",
                "Acknowledged batches of runs that were given up: they are in the directory given-up",
                &self.lost,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, histogram) in [
            ("fsync_seconds", "Time of one durable write", &self.fsync_seconds),
            (
                "batches_per_write",
                "Batches in one durable write",
                &self.batches_per_write,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
    }
}

impl Default for SpoolMetrics {
    fn default() -> Self {
        Self {
            spooling: Gauge::default(),
            bytes: Gauge::default(),
            batches: Gauge::default(),
            oldest_seconds: Gauge::default(),
            appended: Counter::default(),
            drained: Counter::default(),
            refused: Counter::default(),
            failed: Counter::default(),
            lost: Counter::default(),
            fsync_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            batches_per_write: Histogram::new(exponential_buckets(1.0, 2.0, 8)),
        }
    }
}

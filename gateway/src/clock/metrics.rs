//! Metrics of clocks.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

type Offset = Gauge<f64, AtomicU64>;

pub(super) struct ClockMetrics {
    offsets: Family<[(&'static str, &'static str); 1], Offset>,
}

impl ClockMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let offsets = Family::<[(&'static str, &'static str); 1], Offset>::default();
        registry.sub_registry_with_prefix("gateway_clock").register_with_unit(
            "offset",
            "How far the machine's clock is ahead of a server's clock",
            Unit::Seconds,
            offsets.clone(),
        );
        Self { offsets }
    }

    /// In milliseconds. `None`: the server was not heard yet.
    pub(super) fn set(&self, ahead_of_postgres: Option<i64>, ahead_of_nats: Option<i64>) {
        for (server, ahead_ms) in [("postgres", ahead_of_postgres), ("nats", ahead_of_nats)] {
            if let Some(ahead_ms) = ahead_ms {
                self.offsets
                    .get_or_create_owned(&[("server", server)])
                    .set(seconds(ahead_ms));
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a difference of clocks; far fewer than 2^53 milliseconds matter"
)]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

//! What the lanes count. Requests are counted where they are answered.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        counter::Counter,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{lane::Verdict, publisher::Publisher};

/// Of all lanes together: shards would multiply the series and say little more.
#[derive(Clone, Debug)]
pub struct LaneMetrics {
    pub attempts: Counter,
    pub unclear: Counter,
    pub refused: Counter,
    pub wrong_last: Counter,
    pub stuck: Counter,
    pub fenced: Counter,
    pub stored: Counter,
    pub not_stored: Counter,
    pub unknown: Counter,
    pub events_per_message: Histogram,
    pub publish_seconds: Histogram,
}

impl LaneMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("gateway_lane");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let metrics = Self {
            attempts: counter("publish_attempts", "Attempts to publish a message"),
            unclear: counter(
                "publish_unclear",
                "Attempts whose outcome had to be read from the stream",
            ),
            refused: counter(
                "publish_refused",
                "Attempts refused before storing, or not sent for want of a connection",
            ),
            wrong_last: counter("publish_wrong_last", "Attempts refused because the lane had moved on"),
            stuck: counter(
                "stuck",
                "Messages that had no outcome for so long that their lane took nothing more",
            ),
            fenced: counter("fenced", "Lanes that ended because they were fenced or failed"),
            stored: counter("messages_stored", "Messages stored"),
            not_stored: counter("messages_not_stored", "Messages that are not stored and never will be"),
            unknown: counter(
                "messages_unknown",
                "Messages that nobody can say anything about: their lane failed",
            ),
            events_per_message: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            publish_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
        };
        let histograms = [
            ("events_per_message", "Events in a message", &metrics.events_per_message),
            (
                "publish_seconds",
                "From sending a message first to its verdict",
                &metrics.publish_seconds,
            ),
        ];
        for (name, help, histogram) in histograms {
            registry.register(name, help, histogram.clone());
        }
        metrics
    }

    pub fn settled(&self, verdict: Verdict) {
        match verdict {
            Verdict::Stored => self.stored.inc(),
            Verdict::NotStored => self.not_stored.inc(),
            Verdict::Unknown => self.unknown.inc(),
        };
    }
}

/// The lanes' queues, measured when they are asked for, so that a request counts nothing.
#[derive(Debug)]
pub struct Queues(pub Publisher);

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let (entries, bytes) = self.0.queued();
        for (name, help, value) in [
            (
                "gateway_lane_queued_entries",
                "Entries that have a place in a lane's queue",
                entries,
            ),
            (
                "gateway_lane_queued_bytes",
                "Bytes that wait in the lanes' queues",
                bytes,
            ),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

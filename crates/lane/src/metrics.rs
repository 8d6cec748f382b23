//! Metrics of the lanes.

use prometheus_client::{
    metrics::{
        counter::Counter,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use protocol::lane::MessageOutcome;

/// Counts all lanes together: one series per shard would add little information.
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
    /// Registers the metrics in `registry`, which already has the writer's own prefix.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("publish_attempts", "Attempts to publish a message", &self.attempts),
            (
                "publish_unclear",
                "Attempts whose outcome had to be read from the stream",
                &self.unclear,
            ),
            (
                "publish_refused",
                "Attempts that the stream refused, or that were not sent because there was no connection",
                &self.refused,
            ),
            (
                "publish_wrong_last",
                "Attempts refused because the lane had moved on",
                &self.wrong_last,
            ),
            (
                "stuck",
                "Messages without an outcome for so long that their lane refused new entries",
                &self.stuck,
            ),
            (
                "fenced",
                "Lanes that ended because they were fenced or failed",
                &self.fenced,
            ),
            ("messages_stored", "Messages stored", &self.stored),
            (
                "messages_not_stored",
                "Messages that are not stored and never will be",
                &self.not_stored,
            ),
            (
                "messages_unknown",
                "Messages with an unknown outcome, because their lane failed",
                &self.unknown,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, histogram) in [
            ("events_per_message", "Events in a message", &self.events_per_message),
            (
                "publish_seconds",
                "Time from the first attempt to publish a message to its outcome",
                &self.publish_seconds,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
    }

    pub fn settled(&self, outcome: MessageOutcome) {
        match outcome {
            MessageOutcome::Stored => self.stored.inc(),
            MessageOutcome::NotStored => self.not_stored.inc(),
            MessageOutcome::Unknown => self.unknown.inc(),
        };
    }
}

impl Default for LaneMetrics {
    fn default() -> Self {
        let counter = Counter::default;
        Self {
            attempts: counter(),
            unclear: counter(),
            refused: counter(),
            wrong_last: counter(),
            stuck: counter(),
            fenced: counter(),
            stored: counter(),
            not_stored: counter(),
            unknown: counter(),
            events_per_message: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            publish_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
        }
    }
}

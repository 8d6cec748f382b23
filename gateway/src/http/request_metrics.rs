//! Metrics of requests: their outcomes, and how long they took. The handles are made once, so counting is one atomic.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    http::problem::{Kind, of_the_gateway, was_admitted},
    recording::recorder::RecorderMetrics,
};

pub struct RequestMetrics {
    accepted: Counter,
    admitted_again: Counter,
    upstream_refused: Counter,
    /// Indexed by [`Kind`]: the kinds of the gateway come first in the catalogue.
    problems: Vec<Counter>,
    added: Histogram,
    upstream: Histogram,
}

/// In the extensions of a metered response: the time that the upstream took.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamTime(pub Duration);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
    reason: &'static str,
}

impl RequestMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let requests = Family::<Labels, Counter>::default();
        let counter = |outcome, reason| requests.get_or_create_owned(&Labels { outcome, reason });
        // 0.1 ms to 3.3 s, and 1 ms to 33 s.
        let added = Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        let upstream = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            accepted: counter("accepted", ""),
            admitted_again: Counter::default(),
            upstream_refused: counter("failed", "upstream_status"),
            problems: of_the_gateway()
                .map(|kind| counter(if was_admitted(kind) { "failed" } else { "refused" }, kind.error()))
                .collect(),
            added: added.clone(),
            upstream: upstream.clone(),
        };
        let registry = registry.sub_registry_with_prefix("http");
        registry.register(
            "requests",
            "Metered requests and items of batches: accepted (recorded and charged), failed (admitted, but not charged) or refused",
            requests,
        );
        registry.register(
            "admitted_anew",
            "Requests admitted again in a new run, because their run had ended before they were recorded",
            metrics.admitted_again.clone(),
        );
        registry.register_with_unit(
            "added",
            "Time until the response begins, without the time of the upstream",
            Unit::Seconds,
            added,
        );
        registry.register_with_unit(
            "upstream",
            "Time until the response of the upstream begins",
            Unit::Seconds,
            upstream,
        );
        metrics
    }

    /// Handles of the metrics that recording counts.
    pub fn recorder(&self) -> RecorderMetrics {
        RecorderMetrics {
            accepted: self.accepted.clone(),
            admitted_again: self.admitted_again.clone(),
        }
    }

    /// Counts a request that was passed on and is not charged because of the upstream's status.
    pub fn upstream_refused(&self) {
        self.upstream_refused.inc();
    }

    pub fn problem(&self, kind: Kind) {
        // Kinds are numbered in the order of `ALL`.
        if let Some(counter) = self.problems.get(kind as usize) {
            counter.inc();
        }
    }

    pub fn took(&self, total: Duration, upstream: UpstreamTime) {
        self.added.observe(total.saturating_sub(upstream.0).as_secs_f64());
        if !upstream.0.is_zero() {
            self.upstream.observe(upstream.0.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn requests_are_counted_by_outcome_and_reason() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::new(&mut registry);
        metrics.recorder().accepted.inc();
        metrics.upstream_refused();
        metrics.problem(Kind::RateLimitExceeded);
        metrics.problem(Kind::OutcomeUnknown);
        metrics.took(Duration::from_millis(30), UpstreamTime(Duration::from_millis(20)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "http_requests_total{outcome=\"accepted\",reason=\"\"} 1",
            "http_requests_total{outcome=\"failed\",reason=\"upstream_status\"} 1",
            "http_requests_total{outcome=\"refused\",reason=\"rate_limit_exceeded\"} 1",
            "http_requests_total{outcome=\"failed\",reason=\"outcome_unknown\"} 1",
            "http_added_seconds_sum 0.01",
            "http_upstream_seconds_sum 0.02",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}

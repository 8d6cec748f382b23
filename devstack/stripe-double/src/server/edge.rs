//! What happens to a call before the API sees it: limits and faults. Also records every call.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::server::faults::Faults;
use crate::server::idempotency::Idempotency;

pub(crate) const METER_EVENTS: &str = "/v1/billing/meter_events";

/// Stripe's limit for one account.
const METER_EVENTS_PER_SECOND: u32 = 1_000;

/// One call that the double received.
#[derive(Clone, Debug, Serialize)]
pub struct RecordedRequest {
    pub method: String,
    pub path: String,
    /// The parameters of query and body, nested. A list is an object with its indices as keys.
    pub params: Value,
    pub idempotency_key: Option<String>,
    /// The status of the response; 0 if there was none.
    pub status: u16,
    /// Unix seconds of the double's clock.
    pub at: i64,
}

pub(crate) struct Edge {
    pub faults: Faults,
    pub idempotency: Idempotency,
    pub latency: Duration,
    pub calls_per_second: Option<u32>,
    /// Of one endpoint.
    pub endpoint_calls_per_second: Option<u32>,
    /// By what is limited: the second that began with the first call in it, and its calls.
    windows: HashMap<String, (Instant, u32)>,
    /// (customer, event name) of each meter event in progress.
    metering: HashSet<(String, String)>,
    requests: VecDeque<RecordedRequest>,
    requests_kept: usize,
}

impl Edge {
    pub(crate) fn new(latency: Duration, calls_per_second: Option<u32>, requests_kept: usize) -> Self {
        Self {
            faults: Faults::default(),
            idempotency: Idempotency::default(),
            latency,
            calls_per_second,
            endpoint_calls_per_second: None,
            windows: HashMap::new(),
            metering: HashSet::new(),
            requests: VecDeque::new(),
            requests_kept,
        }
    }

    /// The limit that this call exceeds, as Stripe names it. Reads and writes have a limit each, and so has each endpoint. Meter
    /// events have only one of their own, far above the others.
    pub(crate) fn admits(&mut self, method: &str, endpoint: &str, now: Instant) -> Result<(), &'static str> {
        if method == "POST" && endpoint == METER_EVENTS {
            let limit = self.calls_per_second.map(|_| METER_EVENTS_PER_SECOND);
            return self.count(METER_EVENTS.to_owned(), limit, now, "endpoint-rate");
        }
        let kind = if method == "GET" { "reads" } else { "writes" };
        self.count(kind.to_owned(), self.calls_per_second, now, "global-rate")?;
        let endpoint = format!("{method} {endpoint}");
        self.count(endpoint, self.endpoint_calls_per_second, now, "endpoint-rate")
    }

    fn count(
        &mut self,
        what: String,
        limit: Option<u32>,
        now: Instant,
        name: &'static str,
    ) -> Result<(), &'static str> {
        let Some(limit) = limit else {
            return Ok(());
        };
        let window = self.windows.entry(what).or_insert((now, 0));
        if now.duration_since(window.0) >= Duration::from_secs(1) {
            *window = (now, 0);
        }
        window.1 = window.1.saturating_add(1);
        if window.1 <= limit { Ok(()) } else { Err(name) }
    }

    /// `false`: another event for the same customer and meter is in progress.
    pub(crate) fn begin_metering(&mut self, counted: &(String, String)) -> bool {
        self.metering.insert(counted.clone())
    }

    pub(crate) fn end_metering(&mut self, counted: &(String, String)) {
        self.metering.remove(counted);
    }

    pub(crate) fn record(&mut self, request: RecordedRequest) {
        if self.requests.len() >= self.requests_kept {
            self.requests.pop_front();
        }
        if self.requests_kept > 0 {
            self.requests.push_back(request);
        }
    }

    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.iter().cloned().collect()
    }

    pub(crate) fn clear_requests(&mut self) {
        self.requests.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_per_second() {
        let mut edge = Edge::new(Duration::ZERO, Some(2), 10);
        let start = Instant::now();
        let mut admits =
            |method: &str, path: &str, ms: u64| edge.admits(method, path, start + Duration::from_millis(ms));
        for method in ["GET", "POST"] {
            let limited = Err("global-rate");
            let admitted = [0, 1, 2, 999, 1_000].map(|ms| admits(method, "/v1/customers", ms));
            assert_eq!(admitted, [Ok(()), Ok(()), limited, limited, Ok(())]);
        }
        assert!(
            (0..900).all(|ms| admits("POST", METER_EVENTS, ms).is_ok()),
            "a limit of their own"
        );
    }

    #[test]
    fn each_endpoint_has_its_limit() {
        let mut edge = Edge::new(Duration::ZERO, Some(100), 10);
        edge.endpoint_calls_per_second = Some(1);
        let now = Instant::now();
        assert_eq!(edge.admits("POST", "/v1/customers", now), Ok(()));
        assert_eq!(edge.admits("POST", "/v1/customers", now), Err("endpoint-rate"));
        assert_eq!(edge.admits("GET", "/v1/customers", now), Ok(()));
        assert_eq!(edge.admits("POST", "/v1/prices", now), Ok(()));
    }

    #[test]
    fn record_is_bounded() {
        let mut edge = Edge::new(Duration::ZERO, None, 3);
        for at in 0..10 {
            let (method, path) = ("GET".to_owned(), "/v1/x".to_owned());
            edge.record(RecordedRequest {
                method,
                path,
                params: Value::Null,
                idempotency_key: None,
                status: 200,
                at,
            });
        }
        assert_eq!(
            edge.requests().iter().map(|request| request.at).collect::<Vec<_>>(),
            [7, 8, 9]
        );
    }
}

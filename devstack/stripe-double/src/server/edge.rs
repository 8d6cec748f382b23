//! What happens to a call before the API sees it: limits and faults. Also records every call.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::server::faults::Faults;
use crate::server::idempotency::Idempotency;

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
    /// The second that began with the first call in it, and its calls: of reads, and of writes.
    windows: [Option<(Instant, u32)>; 2],
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
            windows: [None; 2],
            metering: HashSet::new(),
            requests: VecDeque::new(),
            requests_kept,
        }
    }

    /// `false`: the limit of this second is reached. Reads and writes have a limit each.
    pub(crate) fn admits(&mut self, is_read: bool, now: Instant) -> bool {
        let Some(limit) = self.calls_per_second else {
            return true;
        };
        let window = &mut self.windows[usize::from(is_read)];
        let fresh = window.filter(|(since, _)| now.duration_since(*since) < Duration::from_secs(1));
        let (since, calls) = fresh.unwrap_or((now, 0));
        *window = Some((since, calls.saturating_add(1)));
        calls < limit
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
        for is_read in [true, false] {
            let admitted = [0, 1, 2, 999, 1_000].map(|ms| edge.admits(is_read, start + Duration::from_millis(ms)));
            assert_eq!(admitted, [true, true, false, false, true]);
        }
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

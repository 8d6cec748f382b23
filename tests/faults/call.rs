//! One call: the request that is sent, and how its response is interpreted.

use anyhow::Result;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    cast::{Role, USAGE_TYPES},
    history::{AttemptOutcome, Doubt, RequestId, Way},
    wire::{Failure, WireResponse},
};

#[derive(Clone, Debug)]
pub struct Call {
    pub way: Way,
    /// Index in the catalogue and units of each event.
    pub events: Vec<(usize, i64)>,
    /// The status that the upstream must respond with.
    pub upstream_status: Option<u16>,
    /// How long the upstream must take.
    pub upstream_ms: Option<u64>,
    /// The client hangs up after this time.
    pub hangs_up_ms: Option<u64>,
    /// Two concurrent tries of one operation, through two gateways.
    pub twice: bool,
    /// Each event is as large as an event can get.
    pub is_fat: bool,
}

/// Number of events in a fat batch, and the length in bytes of each of its texts.
const FAT_EVENTS: usize = 25;
const FAT_TEXT: usize = 2_000;

/// Makes a random call for an account.
pub fn make_up(random: &mut StdRng, role: Role) -> Call {
    let way = match random.random_range(0..100) {
        0..62 => Way::Usage,
        62..72 => Way::Batch,
        72..90 => Way::Proxy,
        _ => Way::Authorize,
    };
    let costs: &[i64] = match role {
        Role::Far | Role::Paying => &[1, 1, 10, 100, 1_000],
        _ => &[1, 1, 2, 5],
    };
    let event = |random: &mut StdRng| {
        let usage_type = [0, 0, 0, 1, 2][random.random_range(0..5)];
        (usage_type, costs[random.random_range(0..costs.len())])
    };
    let mut call = Call {
        way,
        events: vec![event(random)],
        upstream_status: None,
        upstream_ms: None,
        hangs_up_ms: random.random_bool(0.03).then(|| random.random_range(0..30)),
        twice: false,
        is_fat: false,
    };
    match way {
        Way::Usage => call.twice = call.hangs_up_ms.is_none() && random.random_bool(0.15),
        Way::Batch => call
            .events
            .extend((0..random.random_range(1..8)).map(|_| event(random))),
        Way::Authorize => call.events = vec![(0, 1)],
        Way::Proxy => {
            if call.events[0].0 < 2 {
                call.events[0].1 = 1;
            } else {
                call.events[0].1 = call.events[0].1.min(10);
            }
            call.upstream_status = random
                .random_bool(0.15)
                .then(|| [400, 404, 500, 503][random.random_range(0..4)]);
            call.upstream_ms = random.random_bool(0.1).then(|| random.random_range(5..400));
        }
    }
    call
}

impl Call {
    /// A batch that takes a lot of space.
    pub fn fat() -> Self {
        Self {
            way: Way::Batch,
            events: vec![(0, 1); FAT_EVENTS],
            upstream_status: None,
            upstream_ms: None,
            hangs_up_ms: None,
            twice: false,
            is_fat: true,
        }
    }

    /// Request id of the n-th event.
    pub fn request_id(number: u32, item: usize) -> RequestId {
        RequestId {
            call: number,
            item: u16::try_from(item).expect("a batch has a few events"),
        }
    }

    pub fn request(&self, number: u32, secret: &str, operation: Option<&str>) -> Result<Request<Full<Bytes>>> {
        let (usage_type, units) = self.events[0];
        let report =
            |(usage_type, units): (usize, i64)| json!({ "usage_type": USAGE_TYPES[usage_type], "cost_units": units });
        let (method, path, body) = match self.way {
            Way::Usage => (Method::POST, "/v1/usage", Some(report(self.events[0]))),
            Way::Batch => {
                let events = self.events.iter().enumerate().map(|(n, event)| {
                    let mut event = report(*event);
                    event["request_id"] = Self::request_id(number, n).to_string().into();
                    if self.is_fat {
                        event["endpoint"] = "/fat".repeat(FAT_TEXT / 4).into();
                        event["user_agent"] = "fat ".repeat(FAT_TEXT / 4).into();
                    }
                    event
                });
                let events: Vec<Value> = events.collect();
                (Method::POST, "/v1/usage/batch", Some(json!({ "events": events })))
            }
            Way::Authorize => (Method::GET, "/v1/authorize", None),
            Way::Proxy => match usage_type {
                0 => (Method::GET, "/api/posts/search?q=faults", None),
                1 => (Method::POST, "/api/export/posts/csv", None),
                _ => {
                    let texts: Vec<String> = (0..units).map(|n| format!("text {n}")).collect();
                    (
                        Method::POST,
                        "/api/sentiment/analyze-batch",
                        Some(json!({ "texts": texts })),
                    )
                }
            },
        };
        let mut request = devstack::http::request(method, path, secret, body.as_ref())?;
        let headers = request.headers_mut();
        headers.insert("host", HeaderValue::from_static("gateway"));
        let id = Self::request_id(number, 0).to_string();
        headers.insert("x-request-id", HeaderValue::try_from(id)?);
        if let Some(operation) = operation {
            headers.insert("idempotency-key", HeaderValue::try_from(operation)?);
        }
        if self.way == Way::Authorize {
            headers.insert("x-original-method", HeaderValue::from_static("GET"));
            headers.insert("x-original-uri", HeaderValue::from_static("/api/posts/search"));
        }
        if let Some(status) = self.upstream_status {
            headers.insert("x-demo-status", HeaderValue::from(status));
        }
        if let Some(ms) = self.upstream_ms {
            headers.insert("x-demo-delay-ms", HeaderValue::from(ms));
        }
        Ok(request)
    }

    /// The outcome of each event.
    pub fn outcomes(&self, answered: Result<WireResponse, Failure>) -> Vec<AttemptOutcome> {
        let all = |outcome: AttemptOutcome| vec![outcome; self.events.len()];
        match answered {
            Err(Failure::NotSent) => all(AttemptOutcome::NotSent),
            Err(Failure::Doubt(doubt)) => all(AttemptOutcome::Unknown(doubt)),
            Ok(answer) if self.way == Way::Batch && answer.status.is_success() => {
                let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
                let result = |n: usize| body.as_ref().map_or(&Value::Null, |body| &body["results"][n]);
                (0..self.events.len()).map(|n| of_item(result(n))).collect()
            }
            Ok(answer) => all(of_answer(&answer)),
        }
    }
}

fn of_answer(answer: &WireResponse) -> AttemptOutcome {
    let event = answer
        .headers
        .get("usage-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    if let Some(event) = event {
        return match answer.status.as_u16() {
            status @ 400.. => AttemptOutcome::Failed { event, status },
            _ => AttemptOutcome::Accepted { event },
        };
    }
    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    of_problem(answer.status, &body)
}

fn of_item(item: &Value) -> AttemptOutcome {
    let status = item["status"]
        .as_u64()
        .and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    let event = item["event_id"].as_str().and_then(|id| id.parse().ok());
    match (status, event) {
        (Some(status), Some(event)) if status.is_success() => AttemptOutcome::Accepted { event },
        (Some(status), _) => of_problem(status, item),
        (None, _) => AttemptOutcome::Unknown(Doubt::Nonsense),
    }
}

fn of_problem(status: StatusCode, body: &Value) -> AttemptOutcome {
    match body["error"].as_str() {
        Some("outcome_unknown") => AttemptOutcome::Unknown(Doubt::OutcomeUnknown),
        Some(error) if status != StatusCode::INTERNAL_SERVER_ERROR && status.as_u16() >= 400 => {
            AttemptOutcome::Refused {
                status: status.as_u16(),
                error: error.to_owned(),
            }
        }
        _ => AttemptOutcome::Unknown(Doubt::Nonsense),
    }
}

//! One call of the API, from its head to its response: key, limits, faults, schema, idempotency, and then the call itself.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State as Shared;
use axum::response::IntoResponse;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode, header};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::api::{expand, meter_events, routes};
use crate::failure::Failure;
use crate::form::Param;
use crate::server::auth;
use crate::server::double::{Double, Reset};
use crate::server::edge::{METER_EVENTS, RecordedRequest};
use crate::server::faults::{FaultKind, Moment};
use crate::server::idempotency::{Begun, Stored};
use crate::spec::{API_VERSION, Refusal, schema};
use crate::state;

const BODY_MAX: usize = 1 << 20;

pub(crate) async fn answer(Shared(double): Shared<Arc<Double>>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let query = head.uri.query().unwrap_or_default();
    let (params, malformed) = Param::parse(&format!("{query}&{}", String::from_utf8_lossy(&body)));
    let key = head
        .headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok())
        .map(str::to_owned);
    let call = Call {
        id: double.next_request_id(),
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        params,
        malformed,
        // Stripe reads it only from a POST: the other methods are safe to repeat.
        key: key.filter(|_| head.method == http::Method::POST),
    };
    let outcome = call.run(&double, &head.headers).await;
    let response = call.respond(outcome);
    let at = double.state().now();
    let was_sent = response.extensions().get::<Reset>().is_none();
    double.edge().record(RecordedRequest {
        params: call.params.to_json(),
        idempotency_key: call.key.clone(),
        status: if was_sent { response.status().as_u16() } else { 0 },
        at,
        method: call.method,
        path: call.path,
    });
    response
}

struct Call {
    id: String,
    method: String,
    path: String,
    params: Param,
    malformed: Vec<String>,
    key: Option<String>,
}

enum CallOutcome {
    Response(StripeResponse),
    /// The head and half of the body, then a reset.
    Cut(StripeResponse),
    /// A success with this body.
    Broken(&'static str),
    Reset,
}

/// A new response, or the one that is stored under the idempotency key.
enum StripeResponse {
    Fresh(Result<Value, Failure>),
    Again(Stored),
}

impl Call {
    async fn run(&self, double: &Arc<Double>, headers: &HeaderMap) -> CallOutcome {
        let fail = |failure| CallOutcome::Response(StripeResponse::Fresh(Err(failure)));
        if let Err(failure) = auth::check(headers, &double.api_key) {
            return fail(failure);
        }
        let (admitted, fault, latency) = {
            let mut edge = double.edge();
            let endpoint = schema().endpoint(&self.path);
            let admitted = edge.admits(&self.method, &endpoint, Instant::now());
            let fault = if admitted.is_ok() {
                edge.faults.strike(&self.method, &self.path)
            } else {
                None
            };
            (admitted, fault, edge.latency)
        };
        if let Err(limit) = admitted {
            return fail(Failure::rate_limited(limit));
        }
        let before = fault
            .filter(|(_, moment)| *moment == Moment::Before)
            .map(|(kind, _)| kind);
        let refused = before.and_then(FaultKind::failure);
        if let Some(kind) = before.filter(|_| refused.is_none()) {
            return self.struck(kind, StripeResponse::Fresh(Ok(Value::Null)), latency).await;
        }
        if let Err(failure) = self.check(double, headers) {
            sleep(latency).await;
            return fail(failure);
        }
        let mut in_use = match self.begin(double) {
            Ok(in_use) => in_use,
            Err(answer) => {
                sleep(latency).await;
                return CallOutcome::Response(answer);
            }
        };
        sleep(latency / 2).await;
        let mut result = match refused {
            Some(failure) => Err(failure),
            None => self.execute(double),
        };
        let after = fault
            .filter(|(_, moment)| *moment == Moment::After)
            .map(|(kind, _)| kind);
        let refused = after.and_then(FaultKind::failure);
        let cut = after.filter(|_| refused.is_none());
        if let Some(failure) = refused {
            result = Err(failure);
        }
        in_use.answer = self.stored(&result);
        sleep(latency - latency / 2).await;
        drop(in_use);
        match cut {
            None => CallOutcome::Response(StripeResponse::Fresh(result)),
            Some(kind) => self.struck(kind, StripeResponse::Fresh(result), Duration::ZERO).await,
        }
    }

    async fn struck(&self, kind: FaultKind, answer: StripeResponse, latency: Duration) -> CallOutcome {
        sleep(kind.hang().unwrap_or(latency)).await;
        match kind {
            FaultKind::TooManyRequests { retry_after_s } => {
                let mut failure = Failure::rate_limited("global-rate");
                failure.retry_after = retry_after_s;
                CallOutcome::Response(StripeResponse::Fresh(Err(failure)))
            }
            FaultKind::ServerError | FaultKind::Refused(_) => CallOutcome::Response(answer),
            FaultKind::Reset | FaultKind::Hang { .. } => CallOutcome::Reset,
            FaultKind::CutBody => CallOutcome::Cut(answer),
            FaultKind::BrokenJson => CallOutcome::Broken("{\"id\": \"cut_short_by_a_pr"),
            FaultKind::OtherJson => CallOutcome::Broken("{\"status\": \"accepted\"}"),
        }
    }

    /// Checks the request itself. A mistake is a violation, which fails the test.
    fn check(&self, double: &Double, headers: &HeaderMap) -> Result<(), Failure> {
        let complain = |what: &str| {
            double
                .state()
                .violation(format!("{} {}: {what}", self.method, self.path))
        };
        if let Some(version) = headers.get("stripe-version").filter(|version| *version != API_VERSION) {
            let message = format!("Invalid Stripe API version: {}", version.to_str().unwrap_or_default());
            complain(&message);
            return Err(Failure::invalid(message).not_stored());
        }
        if let Some(malformed) = self.malformed.first() {
            complain(malformed);
            return Err(Failure::invalid(malformed).not_stored());
        }
        if let Some(what) = self.params.oversized_metadata() {
            complain(what);
            return Err(Failure::invalid(what).param("metadata").not_stored());
        }
        if self.path.starts_with("/v2/") {
            return Ok(());
        }
        match schema().check(&self.method, &self.path, &self.params) {
            Ok(()) => Ok(()),
            Err(Refusal::Unknown(what)) => {
                complain(&what);
                Err(Failure::unknown_path(&format!("{}: {}", self.method, self.path)))
            }
            Err(Refusal::Faults(faults)) => {
                faults
                    .iter()
                    .for_each(|fault| complain(&format!("{} ({})", fault.message, fault.param)));
                let first = faults.into_iter().next();
                let failure = first.map(|fault| Failure::invalid(fault.message).code(fault.code).param(fault.param));
                Err(failure.unwrap_or_else(Failure::server_error).not_stored())
            }
        }
    }

    /// Takes the idempotency key and, for a meter event, the customer and meter.
    fn begin(&self, double: &Arc<Double>) -> Result<InUse, StripeResponse> {
        let mut in_use = InUse {
            double: double.clone(),
            key: None,
            counted: None,
            answer: None,
        };
        let metering = self.method == "POST" && self.path == METER_EVENTS;
        let counted = metering
            .then(|| meter_events::counted(&double.state(), &self.params))
            .flatten();
        let now = double.state().now();
        let mut edge = double.edge();
        if let Some(key) = &self.key {
            match edge.idempotency.begin(now, key, &self.method, &self.path, &self.params) {
                Begun::First => in_use.key = Some(key.clone()),
                Begun::Again(stored) => return Err(StripeResponse::Again(stored)),
                Begun::Refused(failure) => return Err(StripeResponse::Fresh(Err(failure))),
            }
        }
        if let Some(counted) = counted {
            if !edge.begin_metering(&counted) {
                drop(edge); // which `in_use` takes to free the key
                return Err(StripeResponse::Fresh(Err(Failure::lock_timeout())));
            }
            in_use.counted = Some(counted);
        }
        drop(edge);
        Ok(in_use)
    }

    fn execute(&self, double: &Double) -> Result<Value, Failure> {
        let mut state = double.state_now();
        let Some(route) = routes::find(&self.method, &self.path) else {
            let failure = Failure::gap("this path");
            state.violation(format!("{} {}: {}", self.method, self.path, failure.message()));
            return Err(failure);
        };
        state.cause = Some((self.id.clone(), self.key.clone()));
        let clock = state.test_clock_of_call(&self.path, &self.params);
        let result = state.at_time_of(clock.as_deref(), |state| {
            let now = state.now();
            let object = route.call(state, &self.params, now)?;
            expanded(state, object, &self.params, &self.path)
        });
        state.cause = None;
        if let Some(gap) = result.as_ref().err().filter(|failure| failure.is_gap) {
            state.violation(format!("{} {}: {}", self.method, self.path, gap.message()));
        }
        drop(state);
        double.wake.notify_one();
        result
    }

    fn stored(&self, result: &Result<Value, Failure>) -> Option<Stored> {
        let (status, body, should_retry) = match result {
            Ok(object) => (200, object.clone(), None),
            Err(failure) if failure.is_stored => (failure.status, failure.body(&self.id), failure.should_retry),
            Err(_) => return None,
        };
        Some(Stored {
            status,
            body: to_vec(&body),
            should_retry,
        })
    }

    fn respond(&self, outcome: CallOutcome) -> Response<Body> {
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, "application/json")
            .header("request-id", &self.id)
            .header("stripe-version", API_VERSION);
        if let Some(key) = &self.key {
            response = response.header("idempotency-key", key);
        }
        let response = match outcome {
            CallOutcome::Reset => return Reset.response(),
            CallOutcome::Broken(body) => response.body(Body::from(body)),
            CallOutcome::Cut(answer) => {
                let body = answer.body(&self.id);
                let half = body.get(..body.len() / 2).unwrap_or_default().to_vec();
                let cut = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                let chunks = stream::iter([Ok(half), Err(cut)]);
                response
                    .header(header::CONTENT_LENGTH, body.len())
                    .body(Body::from_stream(chunks))
            }
            CallOutcome::Response(answer) => {
                response = response.status(answer.status());
                let (should_retry, failure) = match &answer {
                    StripeResponse::Again(stored) => {
                        response = response.header("idempotent-replayed", "true");
                        (stored.should_retry, None)
                    }
                    StripeResponse::Fresh(Ok(_)) => (None, None),
                    StripeResponse::Fresh(Err(failure)) => (failure.should_retry, Some(failure)),
                };
                if let Some(should_retry) = should_retry {
                    response = response.header("stripe-should-retry", should_retry.to_string());
                }
                if let Some(seconds) = failure.and_then(|failure| failure.retry_after) {
                    response = response.header(header::RETRY_AFTER, seconds);
                }
                if let Some(reason) = failure.and_then(|failure| failure.limited_by) {
                    response = response.header("stripe-rate-limited-reason", reason);
                }
                response.body(Body::from(answer.body(&self.id)))
            }
        };
        response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

impl StripeResponse {
    fn status(&self) -> u16 {
        match self {
            Self::Fresh(Ok(_)) => 200,
            Self::Fresh(Err(failure)) => failure.status,
            Self::Again(stored) => stored.status,
        }
    }

    fn body(&self, id: &str) -> Vec<u8> {
        match self {
            Self::Fresh(Ok(object)) => to_vec(object),
            Self::Fresh(Err(failure)) => to_vec(&failure.body(id)),
            Self::Again(stored) => stored.body.clone(),
        }
    }
}

impl Reset {
    fn response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

/// What a call holds until it is answered. It is dropped with the call if the client disconnects; a response that exists by then
/// is stored anyway.
struct InUse {
    double: Arc<Double>,
    key: Option<String>,
    counted: Option<(String, String)>,
    answer: Option<Stored>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut edge = self.double.edge();
        if let Some(key) = &self.key {
            match self.answer.take() {
                Some(answer) => edge.idempotency.finish(key, answer),
                None => edge.idempotency.abandon(key),
            }
        }
        if let Some(counted) = &self.counted {
            edge.end_metering(counted);
        }
    }
}

fn expanded(state: &mut state::State, mut object: Value, params: &Param, path: &str) -> Result<Value, Failure> {
    expand::expand(state, &mut object, params)?;
    state.check_own(&object, path);
    Ok(object)
}

fn to_vec(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

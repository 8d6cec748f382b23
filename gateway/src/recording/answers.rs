//! Stores the first answer to each `Idempotency-Key`. A repeated request gets the same answer, byte for byte, and spends nothing.
//!
//! Only answers to counted requests are stored. If a request was not counted (`429`, `402`, `503`, an invalid body), nothing is
//! stored, and the client may use the key again. If it may have been counted (`504`, or a batch with items that were not
//! counted), only the same request may be retried. Another request with the key is refused.
//!
//! The store belongs to one gateway and has limited memory. It returns the first answer and avoids a second spend. The ingestor
//! ensures that a key is counted once across all gateways and restarts.

mod store;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use clap::Args;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};
use schema::EventId;
use serde_json::value::RawValue;
use service::settings::seconds;
use sha2::{Digest, Sha256};

use crate::http::problem::{Kind, Problem};
use store::{Found, Store};

/// Marks an answer as an earlier one.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

#[derive(Args, Clone, Debug)]
pub struct AnswerSettings {
    /// How long the answer to an Idempotency-Key is kept; an ingestor's IDEMPOTENCY_WINDOW is longer (seconds)
    #[arg(long, env = "IDEMPOTENCY_TTL", default_value = "86400", value_parser = seconds)]
    pub idempotency_ttl: Duration,

    /// Memory for such answers; the oldest make room (bytes)
    #[arg(long, env = "IDEMPOTENCY_MEMORY_MAX", default_value = "67108864")]
    pub idempotency_memory_max: usize,
}

pub struct Answers {
    // One lock for all keys: it is held for a look-up, and by requests with a key alone.
    store: Mutex<Store>,
    metrics: AnswerMetrics,
}

/// The request that an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// The answer to a counted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: StatusCode,
    headers: Box<[(HeaderName, HeaderValue)]>,
    body: Bytes,
}

/// Results of the counted items of a batch, by index, as they were sent.
pub type Counted = Arc<[Option<Box<RawValue>>]>;

/// How to treat a request with a key.
pub enum Claim {
    /// No other request with this key is under way: try it now.
    Try(Try),
    /// It was done before, with this answer.
    Again(Answer),
}

/// The right to work on a key. If it is dropped without a result (a panic, a shutdown), the request counts as maybe counted.
pub struct Try {
    answers: Arc<Answers>,
    name: EventId,
    end: Option<End>,
    /// What an earlier try of the same batch has counted.
    pub counted: Option<Counted>,
}

/// The result of a try.
#[derive(Clone, Debug)]
enum End {
    Answered(Answer),
    NotCounted,
    /// It may have been counted, or these items of it were.
    Open(Option<Counted>),
}

#[derive(Default)]
struct AnswerMetrics {
    keys: Gauge,
    bytes: Gauge,
    replayed: Counter,
    evicted: Counter,
}

impl Answers {
    pub fn new(settings: &AnswerSettings, registry: &mut Registry) -> Self {
        let metrics = AnswerMetrics::default();
        metrics.register(registry);
        Self {
            store: Mutex::new(Store::new(settings.idempotency_ttl, settings.idempotency_memory_max)),
            metrics,
        }
    }

    /// `name` is the event that the account and the key name.
    pub fn claim(self: &Arc<Self>, name: EventId, asked: Fingerprint, now: Instant) -> Result<Claim, Problem> {
        match self.store().claim(name, asked, now) {
            Found::Nothing(counted) => Ok(Claim::Try(Try {
                answers: Arc::clone(self),
                name,
                end: None,
                counted,
            })),
            Found::Answer(answer) => {
                self.metrics.replayed.inc();
                Ok(Claim::Again(answer))
            }
            Found::UnderWay => Err(Problem::new(
                Kind::KeyUnderWay,
                "the first request with this Idempotency-Key is still being processed: try again later for its response",
            )),
            Found::OtherRequest => Err(Problem::new(
                Kind::KeyReused,
                "this Idempotency-Key was used for a request with another path or body: use a new key for a new request",
            )),
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, name: EventId, end: End, now: Instant) {
        let mut store = self.store();
        let evicted = store.end(name, end, now);
        let (keys, bytes) = store.size();
        drop(store);
        self.metrics.evicted.inc_by(evicted);
        self.metrics.keys.set(keys as i64);
        self.metrics.bytes.set(bytes as i64);
    }
}

impl Fingerprint {
    pub fn of(method: &Method, path: &str, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        // No method or path contains a zero byte, so different requests never give the same text.
        for part in [method.as_str().as_bytes(), b"\0", path.as_bytes(), b"\0", body] {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl Answer {
    /// The answer of a complete response.
    pub fn of(response: &axum::http::Response<Bytes>) -> Self {
        let headers = response.headers().iter();
        Self {
            status: response.status(),
            headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
            // Not the buffer that it was written into, which has room for more.
            body: Bytes::copy_from_slice(response.body()),
        }
    }

    /// The stored answer, with a header that marks it as replayed.
    pub fn again(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
            .headers_mut()
            .insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        response
    }

    fn bytes(&self) -> usize {
        let values: usize = self.headers.iter().map(|(_, value)| value.len()).sum();
        size_of_val(&*self.headers) + values + self.body.len()
    }
}

impl Try {
    /// It was counted, and this is the final answer.
    pub fn answered(mut self, answer: Answer) {
        self.end = Some(End::Answered(answer));
    }

    /// Certainly nothing was counted: the key is free again.
    pub fn not_counted(mut self) {
        self.end = Some(match self.counted.take() {
            None => End::NotCounted,
            earlier => End::Open(earlier),
        });
    }

    /// It is unknown whether it was counted: the same request may be retried, and another one may not use the key.
    pub fn maybe_counted(self) {
        drop(self);
    }

    /// Some items of a batch were counted. The other items may still be counted later.
    pub fn counted_in_part(mut self, counted: Counted) {
        self.end = Some(End::Open(Some(counted)));
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or_else(|| End::Open(self.counted.take()));
        self.answers.end(self.name, end, Instant::now());
    }
}

impl AnswerMetrics {
    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("idempotency");
        registry.register("keys", "Idempotency keys that are kept", self.keys.clone());
        registry.register_with_unit("memory", "Memory of their answers", Unit::Bytes, self.bytes.clone());
        registry.register(
            "replayed",
            "Requests that got the answer of an earlier one",
            self.replayed.clone(),
        );
        registry.register(
            "evicted",
            "Answers that made room before their time was over",
            self.evicted.clone(),
        );
    }
}

//! Stores the first response to each `Idempotency-Key`. A repeated request gets the same response, byte for byte, and spends
//! nothing.
//!
//! Only responses to counted requests are stored. If a request was not counted (it was refused or invalid), nothing is stored,
//! and the client may use the key again. If it may have been counted (its outcome is unknown, or some items of a batch were not
//! counted), only the same request may be retried. Another request with the key is refused.
//!
//! The store belongs to one gateway and has limited memory. It returns the first response and avoids a second spend. The
//! ingestor ensures that a key is counted once across all gateways and restarts.

mod store;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderName, HeaderValue};
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

use store::{Store, StoreClaim};

#[derive(Args, Clone, Debug)]
pub struct ResponseSettings {
    /// How long the response to an Idempotency-Key is kept; must be less than IDEMPOTENCY_WINDOW of the ingestors (seconds)
    #[arg(long, env = "IDEMPOTENCY_TTL", default_value = "86400", value_parser = seconds)]
    pub idempotency_ttl: Duration,

    /// Memory for these responses; when it is full, the oldest ones are dropped (bytes)
    #[arg(long, env = "IDEMPOTENCY_MEMORY_MAX", default_value = "67108864")]
    pub idempotency_memory_max: usize,
}

pub struct Responses {
    // One lock for all keys: only requests with a key take it, and only for a look-up.
    store: Mutex<Store>,
    metrics: ResponseMetrics,
}

/// Identifies the request that a response belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// The response to a counted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    pub status: u16,
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    pub body: Bytes,
}

/// Results of the counted items of a batch, by index, as they were sent.
pub type Counted = Arc<[Option<Box<RawValue>>]>;

/// How to treat a request with a key.
pub enum Claim {
    /// No other request with this key is in progress: try it now.
    Try(Try),
    /// The same request was answered before, with this response.
    Replay(StoredResponse),
}

/// Why a request cannot use its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("the first request with this key is still in progress")]
    UnderWay,
    #[error("the key was used for another request")]
    OtherRequest,
}

/// The right to work on a key. If it is dropped without a result (a panic, a shutdown), the request counts as maybe counted.
pub struct Try {
    responses: Arc<Responses>,
    name: EventId,
    end: Option<End>,
    /// What an earlier try of the same batch has counted.
    pub counted: Option<Counted>,
}

/// The result of a try.
#[derive(Clone, Debug)]
enum End {
    Answered(StoredResponse),
    NotCounted,
    /// It may have been counted, or these items of it were.
    Open(Option<Counted>),
}

#[derive(Default)]
struct ResponseMetrics {
    keys: Gauge,
    bytes: Gauge,
    replayed: Counter,
    evicted: Counter,
}

impl Responses {
    pub fn new(settings: &ResponseSettings, registry: &mut Registry) -> Self {
        let metrics = ResponseMetrics::default();
        metrics.register(registry);
        Self {
            store: Mutex::new(Store::new(settings.idempotency_ttl, settings.idempotency_memory_max)),
            metrics,
        }
    }

    /// `name` is the event that the account and the key name.
    pub fn claim(self: &Arc<Self>, name: EventId, request: Fingerprint, now: Instant) -> Result<Claim, ClaimError> {
        let claim = self.store().claim(name, request, now)?;
        Ok(match claim {
            StoreClaim::Try(counted) => Claim::Try(Try {
                responses: Arc::clone(self),
                name,
                end: None,
                counted,
            }),
            StoreClaim::Replay(response) => {
                self.metrics.replayed.inc();
                Claim::Replay(response)
            }
        })
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
        self.metrics.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.metrics.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl Fingerprint {
    pub fn of(method: &str, path: &str, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        // No method or path contains a zero byte, so different requests never give the same text.
        for part in [method.as_bytes(), b"\0", path.as_bytes(), b"\0", body] {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl StoredResponse {
    fn bytes(&self) -> usize {
        let values: usize = self.headers.iter().map(|(_, value)| value.len()).sum();
        size_of_val(&*self.headers) + values + self.body.len()
    }
}

impl Try {
    /// It was counted, and this is the final response.
    pub fn answered(mut self, response: StoredResponse) {
        self.end = Some(End::Answered(response));
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
        self.responses.end(self.name, end, Instant::now());
    }
}

impl ResponseMetrics {
    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("idempotency");
        registry.register("keys", "Idempotency keys in memory", self.keys.clone());
        registry.register_with_unit("memory", "Memory of their responses", Unit::Bytes, self.bytes.clone());
        registry.register(
            "replayed",
            "Requests that got the stored response of an earlier one",
            self.replayed.clone(),
        );
        registry.register(
            "evicted",
            "Responses that were dropped early, because the memory was full",
            self.evicted.clone(),
        );
    }
}

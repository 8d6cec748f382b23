//! One call to Stripe: its place in the queue, kept-alive connections, a time-out for each attempt, and jittered retries that
//! honour `Retry-After`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use schema::AccountId;
use serde::de::DeserializeOwned;
use service::{Backoff, Health};
use stripe_client_core::{RequestBuilder, StripeMethod, StripeRequest, VERSION};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{
    StripeError, StripeMetrics, StripeSettings,
    error::Refusal,
    object::List,
    queue::{Limit, Queue, class::Class},
    response::StripeResponse,
};

/// Attempts of a call that may be repeated.
const ATTEMPTS: u32 = 4;
/// The longest `Retry-After` that is waited for within one call; beyond that the caller decides.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// A page of a hundred subscriptions has some three hundred kilobytes.
const RESPONSE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Makes calls of one class, for one account. Cheap to clone; all clones share connections and the queue.
#[derive(Clone)]
pub struct Stripe {
    inner: Arc<Inner>,
    class: Class,
    /// `None`: the calls are about no account.
    account: Option<AccountId>,
}

struct Inner {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// `https://api.stripe.com/v1`
    base: String,
    authorization: HeaderValue,
    is_live: bool,
    automatic_tax: bool,
    attempt_timeout: Duration,
    queue: Queue,
    metrics: StripeMetrics,
    /// Where it is shown whether Stripe answers.
    health: OnceLock<Health>,
}

/// How a call that changes something is kept from taking effect twice.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// Under this idempotency key. Repeated on failure.
    Keyed(&'a str),
    /// An idempotent call that sets a state (an update, a deletion). Repeated on failure.
    Settable,
    /// Made once; the caller handles the outcome. Under the rate limit of meter events, always in the class of reports.
    MeterEvent,
}

impl Stripe {
    /// `None`: there is no key. Connects to nothing yet. The calls are about no account, and nobody waits for them.
    pub fn new(settings: &StripeSettings, metrics: StripeMetrics) -> Result<Option<Self>> {
        let Some(key) = &settings.stripe_secret_key else {
            return Ok(None);
        };
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {key}")).context("STRIPE_SECRET_KEY is not a valid header value")?;
        authorization.set_sensitive(true);
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(64)
            .build(connector);
        Ok(Some(Self {
            inner: Arc::new(Inner {
                client,
                base: format!("{}/v1", settings.stripe_api_base.trim_end_matches('/')),
                authorization,
                is_live: settings.is_live(),
                automatic_tax: settings.automatic_tax,
                attempt_timeout: settings.stripe_timeout,
                queue: Queue::new(settings, metrics.queue.clone()),
                metrics,
                health: OnceLock::new(),
            }),
            class: Class::Sweep,
            account: None,
        }))
    }

    /// From now on, each call shows there whether Stripe answers.
    pub fn show_on(&self, health: Health) {
        // Nobody shows it in two places.
        self.inner.health.set(health).ok();
    }

    /// The same for calls of another class.
    pub fn in_class(&self, class: Class) -> Self {
        Self { class, ..self.clone() }
    }

    /// The same for calls about this account.
    pub fn of(&self, account: AccountId) -> Self {
        Self {
            account: Some(account),
            ..self.clone()
        }
    }

    pub fn is_live(&self) -> bool {
        self.inner.is_live
    }

    /// Whether Stripe calculates tax (`AUTOMATIC_TAX`).
    pub fn automatic_tax(&self) -> bool {
        self.inner.automatic_tax
    }

    /// A call that changes nothing.
    pub async fn read<T: DeserializeOwned>(&self, request: &impl StripeRequest) -> Result<T, StripeError> {
        self.call(request.build(), None, ATTEMPTS).await
    }

    /// The objects of a list, of at most `max` pages. `page` asks for the objects after the one with this id.
    pub async fn pages<T: DeserializeOwned, R: StripeRequest>(
        &self,
        max: usize,
        page: impl Fn(Option<String>) -> R,
        id: fn(&T) -> &String,
    ) -> Result<Vec<T>, StripeError> {
        let (mut all, mut after) = (Vec::new(), None);
        for _ in 0..max {
            let request = page(after);
            let found: List<T> = self.read(&request).await?;
            after = found.data.last().filter(|_| found.has_more).map(id).cloned();
            all.extend(found.data);
            if after.is_none() {
                break;
            }
        }
        Ok(all)
    }

    /// A call that changes something.
    pub async fn write<T: DeserializeOwned>(
        &self,
        request: &impl StripeRequest,
        write: Write<'_>,
    ) -> Result<T, StripeError> {
        match write {
            Write::Keyed(key) => self.call(request.build(), Some(key), ATTEMPTS).await,
            Write::Settable => self.call(request.build(), None, ATTEMPTS).await,
            Write::MeterEvent => {
                let inner = &self.inner;
                let (limit, class) = (Limit::MeterEvents, Class::Report);
                inner.queue.admit(limit, class, self.account).await?;
                parsed(self.attempt(&request.build(), None).await?.ok(&inner.metrics)?)
            }
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        key: Option<&str>,
        attempts: u32,
    ) -> Result<T, StripeError> {
        let limit = match request.method {
            StripeMethod::Get => Limit::Reads,
            StripeMethod::Post | StripeMethod::Delete => Limit::Writes,
        };
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
        // If the outcome of one attempt is unclear, the call stays unclear, no matter how later attempts end.
        let mut unclear = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            if let Err(full) = self.inner.queue.admit(limit, self.class, self.account).await {
                return Err(unclear.unwrap_or(full));
            }
            let (failure, asked_to) = match self.attempt(&request, key).await {
                Ok(answer) => {
                    let asked_to = answer.should_retry();
                    match answer.ok(&self.inner.metrics) {
                        Ok(body) => return parsed(body),
                        Err(failure) => (failure, asked_to),
                    }
                }
                Err(failure) => (failure, None),
            };
            let again = match failure {
                // Stripe would repeat the response that it stored under the key.
                StripeError::Failed(_) if key.is_some() => false,
                _ => asked_to.unwrap_or_else(|| failure.is_passing()),
            };
            let delay = match &failure {
                StripeError::Busy {
                    retry_after: Some(after),
                    ..
                } => (*after).min(RETRY_AFTER_MAX),
                _ => backoff.next_delay(),
            };
            if let StripeError::Unknown(_) | StripeError::Failed(_) = failure {
                unclear = Some(failure.clone());
            }
            if !again || attempt >= attempts {
                return Err(match (failure, unclear) {
                    (StripeError::Busy { .. }, Some(unclear)) => unclear,
                    (failure, _) => failure,
                });
            }
            debug!(path = %request.path, "calling Stripe again in {delay:.1?}: {failure}");
            sleep(delay).await;
        }
    }

    async fn attempt(&self, request: &RequestBuilder, key: Option<&str>) -> Result<StripeResponse, StripeError> {
        let inner = &*self.inner;
        let target = match &request.query {
            Some(query) if !query.is_empty() => format!("{}{}?{query}", inner.base, request.path),
            _ => format!("{}{}", inner.base, request.path),
        };
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let mut builder = Request::builder()
            .method(method)
            .uri(target)
            .header(header::AUTHORIZATION, inner.authorization.clone())
            .header("stripe-version", VERSION.as_str())
            .header(header::USER_AGENT, concat!("trendit-usage/", env!("CARGO_PKG_VERSION")));
        if let Some(key) = key {
            builder = builder.header("idempotency-key", key);
        }
        if request.body.is_some() {
            builder = builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let body = Full::new(Bytes::from(request.body.clone().unwrap_or_default()));
        let sent = builder.body(body).map_err(|error| {
            StripeError::Refused(Box::new(Refusal {
                message: format!("the request cannot be made: {error}"),
                ..Refusal::default()
            }))
        })?;
        let exchange = async {
            let answer = inner.client.request(sent).await.map_err(|error| {
                if error.is_connect() {
                    StripeError::Busy {
                        why: "no connection".to_owned(),
                        retry_after: None,
                    }
                } else {
                    StripeError::Unknown(format!("the connection broke: {error}"))
                }
            })?;
            let (head, body) = answer.into_parts();
            let broken = |error| match head.status.is_success() {
                true => StripeError::Unknown(format!("the response is incomplete: {error}")),
                false => StripeError::Unknown(format!("the response ({}) is incomplete: {error}", head.status)),
            };
            let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await.map_err(broken)?;
            Ok(StripeResponse {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        let answer = timeout(inner.attempt_timeout, exchange).await.unwrap_or_else(|_| {
            let patience = inner.attempt_timeout;
            Err(StripeError::Unknown(format!("no response within {patience:?}")))
        });
        if let Some(health) = inner.health.get() {
            show(health, &answer);
        }
        answer
    }
}

/// Any response that Stripe means is a sign of life; one to our key is not, if the key is wrong.
fn show(health: &Health, answer: &Result<StripeResponse, StripeError>) {
    const PART: &str = "stripe";
    match answer {
        Ok(answer) if answer.status.is_server_error() => health.down(PART, format!("it answers {}", answer.status)),
        Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => health.down(PART, "it refuses STRIPE_SECRET_KEY"),
        Ok(_) => health.up(PART),
        Err(failure) => health.down(PART, failure.to_string()),
    }
}

fn parsed<T: DeserializeOwned>(body: Bytes) -> Result<T, StripeError> {
    serde_json::from_slice(&body).map_err(|error| StripeError::Unreadable(error.to_string()))
}

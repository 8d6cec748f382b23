//! Delivers events to the endpoints at least once, in no guaranteed order. Each attempt has a new signature. An event is retried until the
//! endpoint answers 2xx or three days of the double's clock have passed.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::outbox::Waiting;
use crate::server::double::Double;
use crate::spec::API_VERSION;
use crate::state::State;
use crate::{clock, signature};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

const ATTEMPTS_AT_ONCE: usize = 8;

const GIVE_UP_AFTER_S: i64 = 3 * 86_400;

type Http = Client<HttpConnector, Full<Bytes>>;

/// A signed delivery attempt.
pub(crate) struct Attempt {
    url: String,
    body: Vec<u8>,
    signature: String,
}

impl State {
    /// `None`: the endpoint or the event no longer exists.
    fn attempt(&self, event: &str, endpoint: &str) -> Option<Attempt> {
        let event = self.events.get(event)?;
        let endpoint = self.endpoints.get(endpoint).filter(|endpoint| !endpoint.is_gone())?;
        let body = event.render(endpoint.api_version.as_deref().unwrap_or(API_VERSION));
        let body = serde_json::to_vec(&body).ok()?;
        // Receivers compare the timestamp with the real time, not with the double's clock.
        let at = clock::now_s();
        let signature = signature::header(at, &body, endpoint.secrets(self.now()));
        Some(Attempt {
            url: endpoint.url.clone(),
            body,
            signature,
        })
    }

    /// Records the result of an attempt; `true`: it must be retried.
    fn attempted(&mut self, event: &str, endpoint: &str, ok: bool) -> bool {
        let now = self.now();
        let Some(event) = self.events.get_mut(event) else {
            return false;
        };
        if ok {
            event.pending.remove(endpoint);
            event.failing.remove(endpoint);
            return false;
        }
        event.failing.insert(endpoint.to_owned());
        now - event.created < GIVE_UP_AFTER_S
    }
}

/// Delivers until it is dropped.
pub(crate) async fn deliver_all(double: Arc<Double>) {
    let mut attempts = JoinSet::new();
    let http = client();
    loop {
        let room = ATTEMPTS_AT_ONCE - attempts.len();
        let (due, next) = double.state().outbox.take(Instant::now(), room);
        for waiting in due {
            attempts.spawn(deliver(double.clone(), http.clone(), waiting));
        }
        tokio::select! {
            Some(_) = attempts.join_next() => {}
            () = double.wake.notified() => {}
            () = sleep_until(next), if attempts.len() < ATTEMPTS_AT_ONCE => {}
        }
    }
}

async fn deliver(double: Arc<Double>, http: Http, waiting: Waiting) {
    let attempt = {
        let mut state = double.state();
        let lost = waiting.tries == 0 && state.outbox.behavior.drop_first > 0;
        if lost {
            state.outbox.behavior.drop_first -= 1;
        }
        state
            .attempt(&waiting.event, &waiting.endpoint)
            .map(|attempt| (attempt, lost))
    };
    let ok = match attempt {
        None => None,
        Some((_, true)) => Some(false),
        Some((attempt, false)) => Some(
            send(&http, attempt)
                .await
                .is_some_and(|status| (200..300).contains(&status)),
        ),
    };
    let mut state = double.state();
    state.outbox.under_way -= 1;
    if let Some(ok) = ok
        && state.attempted(&waiting.event, &waiting.endpoint, ok)
    {
        state.outbox.again(waiting);
    }
}

/// Sends the event once to every endpoint that wants it and returns the statuses; `None` means no answer.
pub(crate) async fn deliver_now(double: &Double, event: &str) -> Vec<Option<u16>> {
    let attempts: Vec<_> = {
        let state = double.state();
        let Some(found) = state.events.get(event) else {
            return Vec::new();
        };
        let wanting = state
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.wants(&found.kind));
        wanting
            .filter_map(|(id, _)| Some((id.to_owned(), state.attempt(event, id)?)))
            .collect()
    };
    let (http, mut statuses) = (client(), Vec::new());
    for (endpoint, attempt) in attempts {
        let status = send(&http, attempt).await;
        let ok = status.is_some_and(|status| (200..300).contains(&status));
        double.state().attempted(event, &endpoint, ok);
        statuses.push(status);
    }
    statuses
}

async fn send(http: &Http, attempt: Attempt) -> Option<u16> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(&attempt.url)
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .header(header::USER_AGENT, "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .header("stripe-signature", attempt.signature)
        .body(Full::new(Bytes::from(attempt.body)))
        .ok()?;
    let exchange = async {
        let answer = http.request(request).await.ok()?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await.ok()?;
        Some(status)
    };
    timeout(ANSWER_WITHIN, exchange).await.ok()?
}

fn client() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector)
}

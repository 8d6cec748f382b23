//! Delivers events to the endpoints: at least once, in no promised order, signed anew at each attempt, tried again until the
//! endpoint answers 2xx or three days of the double's clock are over.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::options::WebhookBehavior;
use super::schema::API_VERSION;
use super::server::Double;
use super::signature;
use super::state::State;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ATTEMPTS_AT_ONCE: usize = 8;
const GIVE_UP_AFTER_S: i64 = 3 * 86_400;
/// Events of one moment that are shuffled come in this span, each when it likes.
const SHUFFLE_WITHIN: Duration = Duration::from_millis(100);
/// Looked at again at least this often: the clock may have been turned.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Http = Client<HttpConnector, Full<Bytes>>;

/// Attempts to be made.
pub(super) struct Outbox {
    pub behavior: WebhookBehavior,
    waiting: Vec<Waiting>,
    under_way: usize,
    random: StdRng,
}

#[derive(Clone, Debug)]
struct Waiting {
    event: String,
    endpoint: String,
    tries: u32,
    at: Instant,
}

/// A signed attempt.
pub(super) struct Attempt {
    url: String,
    body: Vec<u8>,
    signature: String,
}

impl Outbox {
    pub fn new(seed: u64) -> Self {
        Self {
            behavior: WebhookBehavior::default(),
            waiting: Vec::new(),
            under_way: 0,
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub fn put(&mut self, event: &str, endpoint: &str) {
        if self.behavior.hold {
            return;
        }
        let at = Instant::now() + self.behavior.delay;
        for _ in 0..self.behavior.copies.max(1) {
            let within = if self.behavior.shuffle {
                SHUFFLE_WITHIN
            } else {
                Duration::ZERO
            };
            let at = at + within.mul_f64(self.random.random());
            let (event, endpoint) = (event.to_owned(), endpoint.to_owned());
            self.waiting.push(Waiting {
                event,
                endpoint,
                tries: 0,
                at,
            });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }

    /// What is due, and when the next will be.
    fn take(&mut self, now: Instant, max: usize) -> (Vec<Waiting>, Instant) {
        let (mut due, mut later): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|waiting| waiting.at <= now);
        due.sort_by_key(|waiting| waiting.at);
        let rest = due.split_off(due.len().min(max));
        later.splice(0..0, rest);
        self.under_way += due.len();
        let next = later.iter().map(|waiting| waiting.at).min().unwrap_or(now + LOOK_EVERY);
        self.waiting = later;
        (due, next.max(now).min(now + LOOK_EVERY))
    }

    fn again(&mut self, waiting: Waiting) {
        let behavior = &self.behavior;
        if waiting.tries + 1 >= behavior.attempts_max {
            return;
        }
        let delays = &behavior.retry_after;
        let nth = usize::try_from(waiting.tries).unwrap_or(usize::MAX);
        let delay = delays.get(nth).or(delays.last()).copied().unwrap_or(LOOK_EVERY);
        self.waiting.push(Waiting {
            tries: waiting.tries + 1,
            at: Instant::now() + delay,
            ..waiting
        });
    }
}

impl State {
    /// `None`: the endpoint or the event is gone.
    fn attempt(&self, event: &str, endpoint: &str) -> Option<Attempt> {
        let event = self.events.get(event)?;
        let endpoint = self.endpoints.get(endpoint).filter(|endpoint| !endpoint.is_gone())?;
        let body = event.render(endpoint.api_version.as_deref().unwrap_or(API_VERSION));
        let body = serde_json::to_vec(&body).ok()?;
        // Receivers compare with the real time, wherever the double's clock stands.
        let at = super::clock::now_s();
        let signature = signature::header(at, &body, endpoint.secrets(self.now()));
        Some(Attempt {
            url: endpoint.url.clone(),
            body,
            signature,
        })
    }

    /// Notes how an attempt went; `true`: it has to be made again.
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
pub(super) async fn deliver_all(double: Arc<Double>) {
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

/// One attempt at every endpoint that wants the event, now; the statuses, `None` for no answer.
pub(super) async fn deliver_now(double: &Double, event: &str) -> Vec<Option<u16>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(behavior: WebhookBehavior) -> Outbox {
        Outbox {
            behavior,
            ..Outbox::new(1)
        }
    }

    #[tokio::test]
    async fn what_is_not_taken_stays_in_order() {
        let mut outbox = outbox(WebhookBehavior::default());
        ["a", "b", "c"].iter().for_each(|event| outbox.put(event, "we"));
        let names = |due: Vec<Waiting>| due.into_iter().map(|waiting| waiting.event).collect::<Vec<_>>();
        assert_eq!(names(outbox.take(Instant::now(), 2).0), ["a", "b"]);
        assert!(!outbox.is_empty());
        assert_eq!(names(outbox.take(Instant::now(), 2).0), ["c"]);
    }

    #[tokio::test]
    async fn attempts_are_bounded() {
        let retry_after = vec![Duration::ZERO];
        let mut outbox = outbox(WebhookBehavior {
            attempts_max: 3,
            retry_after,
            ..WebhookBehavior::default()
        });
        outbox.put("a", "we");
        let mut attempts = 0;
        while let Some(waiting) = outbox.take(Instant::now() + Duration::from_secs(1), 8).0.pop() {
            (attempts, outbox.under_way) = (attempts + 1, 0);
            outbox.again(waiting);
        }
        assert_eq!(attempts, 3);
        assert!(outbox.is_empty());
    }

    #[tokio::test]
    async fn held_events_are_not_sent() {
        let mut outbox = outbox(WebhookBehavior {
            hold: true,
            ..WebhookBehavior::default()
        });
        outbox.put("a", "we");
        assert!(outbox.is_empty());
    }
}

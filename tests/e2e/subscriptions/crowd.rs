//! One key with a hundred connections delays nobody else.
//!
//! Tests beside the queue show, without a clock, how many calls go ahead of a call of another account. Here the whole worker runs:
//! what an endpoint does apart from Stripe must not delay others, and its calls must be in the right class.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use billing_worker::{administration::By, webhook::worker};
use devstack::http::{Http, request};
use harness::eventually;
use http::Method;
use serde_json::{Value, json};
use service::Lifecycle;
use tokio::{task::JoinSet, time::sleep};

use super::rig::{Rig, Subscriber};

const CONNECTIONS: usize = 100;
/// The pause of each connection after an answer, as `Retry-After` says. Without it, the test would measure how many answers a second
/// the machine can write. With it, the key still has all the requests in progress that it may have.
const PAUSE: Duration = Duration::from_secs(1);

/// Stripe's limit in a sandbox, for reads and for writes.
const CALLS_PER_SECOND: u32 = 25;
/// At that limit, the checkout of another account is answered within this time.
const CHECKOUT_WITHIN: Duration = Duration::from_secs(1);
/// And its event takes effect within this time.
const EVENT_WITHIN: Duration = Duration::from_secs(2);
/// A busy machine alone can take longer than that. So an endpoint that was too slow is tried again, with a limit that is this many
/// times lower and with as many times more time. A delay by the limit grows with it, a delay by the machine does not.
const SLOWER: u32 = 5;

/// A hundred connections of one key that send the same request in a loop. Dropping it ends them.
struct Crowd {
    _connections: JoinSet<()>,
    answered: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

/// A request of the crowd.
#[derive(Clone, Debug)]
struct Endpoint {
    who: Subscriber,
    method: Method,
    path: String,
    body: Value,
}

/// How long a checkout of another account takes, and its events.
#[derive(Clone, Copy, Debug)]
struct Took {
    checkout: Duration,
    event: Duration,
}

impl Crowd {
    fn at(rig: &Rig, endpoint: &Endpoint) -> Self {
        let mut connections = JoinSet::new();
        let (answered, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        for _ in 0..CONNECTIONS {
            let url = format!("{}/billing/{}", rig.url, endpoint.path);
            let body = (endpoint.method == Method::POST).then_some(&endpoint.body);
            let request = request(endpoint.method.clone(), &url, &endpoint.who.key, body).unwrap();
            let (answered, refused) = (answered.clone(), refused.clone());
            connections.spawn(async move {
                let http = Http::default();
                loop {
                    match http.send(request.clone()).await {
                        Ok(answer) if answer.status == 429 && answer.header("retry-after") == Some("1") => {
                            refused.fetch_add(1, Relaxed);
                        }
                        Ok(_) => {
                            answered.fetch_add(1, Relaxed);
                        }
                        Err(_) => {}
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        Self {
            _connections: connections,
            answered,
            refused,
        }
    }

    /// Waits until the key has all the requests in progress that it may have.
    async fn is_at_work(&self, endpoint: &Endpoint) {
        eventually("the crowd is at work", async || {
            // A `GET` does not call Stripe, and may be answered too fast.
            let is_too_much = self.refused.load(Relaxed) > 0 || endpoint.method == Method::GET;
            (is_too_much && self.answered.load(Relaxed) > 0).then_some(())
        })
        .await;
    }
}

/// The worker's loop over the inbox. Dropping it stops the loop.
struct Working(Lifecycle);

impl Working {
    fn start(rig: &Rig) -> Self {
        let life = Lifecycle::new();
        let (billing, metrics) = (rig.billing.by(By::Stripe), rig.metrics.clone());
        life.spawn(worker::run(billing, metrics, rig.inbox.clone(), life.clone()));
        Self(life)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.stop();
    }
}

async fn begins(rig: &Rig, who: &Subscriber) {
    eventually("the plan begins", async || {
        let has_begun: bool = sqlx::query_scalar(
            "select exists (select from subscriptions where account_id = $1 and is_current and plan_id = 'pro')",
        )
        .bind(who.account.0)
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        has_begun.then_some(())
    })
    .await;
}

async fn subscribe(rig: &Rig, name: &str) -> Took {
    let who = rig.subscriber(name).await;
    let begun = Instant::now();
    let opened = rig
        .post(&who, "create-checkout-session", json!({ "tier": "pro" }))
        .await;
    let checkout = begun.elapsed();
    let opened = opened.ok().unwrap();
    let paid = Instant::now();
    rig.control()
        .complete_checkout(opened["session_id"].as_str().unwrap())
        .unwrap();
    begins(rig, &who).await;
    Took {
        checkout,
        event: paid.elapsed(),
    }
}

/// The endpoints at which a crowd delays another account, with a limit that is `times` lower.
async fn slow_at(rig: &mut Rig, endpoints: &[Endpoint], times: u32) -> Vec<Endpoint> {
    let calls_per_second = CALLS_PER_SECOND / times;
    rig.slow_down(calls_per_second).await;
    let _working = Working::start(rig);
    let alone = subscribe(rig, &format!("alone-{times}")).await;
    println!("{calls_per_second} calls a second, nobody else: {alone:.1?}");
    let mut slow = Vec::new();
    for (number, endpoint) in endpoints.iter().enumerate() {
        let crowd = Crowd::at(rig, endpoint);
        crowd.is_at_work(endpoint).await;
        let took = subscribe(rig, &format!("other-{times}-{number}")).await;
        let (answered, refused) = (crowd.answered.load(Relaxed), crowd.refused.load(Relaxed));
        println!(
            "{} {}: {took:.1?}; {answered} answered, {refused} refused",
            endpoint.method, endpoint.path
        );
        if took.checkout >= CHECKOUT_WITHIN * times || took.event >= EVENT_WITHIN * times {
            slow.push(endpoint.clone());
        }
    }
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_connections_of_one_key_delay_no_other_account() {
    let mut rig = Rig::start().await;
    rig.control().set_calls_per_second(Some(CALLS_PER_SECOND));
    rig.listen();
    let (guest, payer) = (rig.subscriber("guest").await, rig.subscribed("payer", "pro").await);
    // A customer in Stripe: for others Stripe is not asked.
    rig.post(&guest, "portal-session", json!({})).await.ok().unwrap();
    let invoice = rig.get(&payer, "invoices").await["items"][0]["id"].clone();
    let invoice = format!("invoices/{}", invoice.as_str().unwrap());
    let get = |who: &Subscriber, path: &str| Endpoint {
        who: who.clone(),
        method: Method::GET,
        path: path.to_owned(),
        body: Value::Null,
    };
    let post = |who: &Subscriber, path: &str, body| Endpoint {
        who: who.clone(),
        method: Method::POST,
        path: path.to_owned(),
        body,
    };
    let endpoints = [
        get(&guest, "invoices"),
        get(&payer, &invoice),
        get(&payer, "subscription"),
        get(&payer, "usage"),
        get(&payer, "plans"),
        post(&guest, "create-checkout-session", json!({ "tier": "pro" })),
        post(&guest, "subscriptions", json!({ "tier": "enterprise" })),
        post(&guest, "portal-session", json!({})),
        post(&payer, "upgrade", json!({ "tier": "enterprise", "preview": true })),
        post(&payer, "upgrade", json!({ "tier": "pro" })),
        post(&payer, "cancel", json!({})),
        post(&payer, "resume", json!({})),
    ];
    let slow = slow_at(&mut rig, &endpoints, 1).await;
    if !slow.is_empty() {
        let slow = slow_at(&mut rig, &slow, SLOWER).await;
        assert!(slow.is_empty(), "the crowd delays another account: {slow:?}");
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_keep_their_database_connections_delay_no_event() {
    let rig = Rig::start().await;
    rig.listen();
    let _working = Working::start(&rig);
    let (ada, bob) = (rig.subscriber("ada").await, rig.subscriber("bob").await);
    let opened = rig
        .post(&bob, "create-checkout-session", json!({ "tier": "pro" }))
        .await;
    let opened = opened.ok().unwrap();
    let mut lock = rig.pool.begin().await.unwrap();
    sqlx::query("lock table api_keys in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut asked = JoinSet::new();
    for _ in 0..8 {
        let (http, url, key) = (rig.http.clone(), format!("{}/billing/usage", rig.url), ada.key.clone());
        asked.spawn(async move { http.get(&url, &key).await.unwrap() });
    }
    eventually("requests have all their connections", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_locks where relation = 'api_keys'::regclass and not granted
                 and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        (waiting == 4).then_some(())
    })
    .await;
    rig.control()
        .complete_checkout(opened["session_id"].as_str().unwrap())
        .unwrap();
    begins(&rig, &bob).await;
    assert!(asked.try_join_next().is_none(), "a request was answered too early");
    lock.rollback().await.unwrap();
    for answer in asked.join_all().await {
        answer.ok().unwrap();
    }
    rig.assert_valid();
}

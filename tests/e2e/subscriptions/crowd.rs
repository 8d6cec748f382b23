//! One key with a hundred connections delays nobody else.

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
/// Stripe's limit in a sandbox, for reads and for writes.
const CALLS_PER_SECOND: u32 = 25;
/// The pause of each connection after an answer: together they send 400 requests a second, whatever `Retry-After` says. Without
/// it the test would measure how many answers a second the machine can write.
const PAUSE: Duration = Duration::from_millis(250);
/// The machine may be busy with other tests at any moment. A delay by the crowd would be in every attempt.
const ATTEMPTS: usize = 3;

/// A hundred connections of one key that send the same request in a loop. Dropping it ends them.
struct Crowd {
    _connections: JoinSet<()>,
    answered: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Crowd {
    fn of(rig: &Rig, who: &Subscriber, method: &Method, path: &str, body: &Value) -> Self {
        let mut connections = JoinSet::new();
        let (answered, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        for _ in 0..CONNECTIONS {
            let url = format!("{}/billing/{path}", rig.url);
            let body = (method == Method::POST).then_some(body);
            let request = request(method.clone(), &url, &who.key, body).unwrap();
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

    async fn is_at_work(&self) {
        eventually("the crowd is at work", async || {
            (self.answered.load(Relaxed) >= 8).then_some(())
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

/// How long a checkout takes, and how long its events take to start the plan.
async fn subscribe(rig: &Rig, who: &Subscriber) -> (Duration, Duration) {
    let begun = Instant::now();
    let opened = rig.post(who, "create-checkout-session", json!({ "tier": "pro" })).await;
    let checkout = begun.elapsed();
    let opened = opened.ok().unwrap();
    let paid = Instant::now();
    rig.control()
        .complete_checkout(opened["session_id"].as_str().unwrap())
        .unwrap();
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
    (checkout, paid.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_connections_of_one_key_delay_no_other_account() {
    let mut rig = Rig::start().await;
    rig.slow_down(CALLS_PER_SECOND).await;
    rig.control().set_calls_per_second(Some(CALLS_PER_SECOND));
    rig.listen();
    let _working = Working::start(&rig);
    let crowd = rig.subscriber("crowd").await;
    // A customer in Stripe: for others Stripe is not asked.
    rig.post(&crowd, "portal-session", json!({})).await.ok().unwrap();
    let (get, post) = (Method::GET, Method::POST);
    for (method, path, body) in [
        (&get, "invoices", json!({})),
        (&get, "subscription", json!({})),
        (&get, "usage", json!({})),
        (&get, "plans", json!({})),
        (&post, "create-checkout-session", json!({ "tier": "pro" })),
        (&post, "subscriptions", json!({ "tier": "enterprise" })),
        (&post, "portal-session", json!({})),
        (&post, "upgrade", json!({ "tier": "pro", "preview": true })),
        (&post, "upgrade", json!({ "tier": "pro" })),
        (&post, "cancel", json!({})),
        (&post, "resume", json!({})),
    ] {
        let name = format!("{}-{path}-{}", method.as_str().to_lowercase(), body["preview"]);
        let crowd = Crowd::of(&rig, &crowd, method, path, &body);
        crowd.is_at_work().await;
        let mut is_in_time = false;
        for attempt in 1..=ATTEMPTS {
            let other = rig.subscriber(&format!("{name}-{attempt}")).await;
            let (checkout, event) = subscribe(&rig, &other).await;
            let (answered, refused) = (crowd.answered.load(Relaxed), crowd.refused.load(Relaxed));
            println!("{name}: checkout {checkout:.0?}, event {event:.0?}; {answered} answered, {refused} refused");
            is_in_time = checkout < Duration::from_secs(1) && event < Duration::from_secs(2);
            if is_in_time {
                break;
            }
        }
        assert!(is_in_time, "{name}: the crowd delays another account");
        // Prices are in memory: their answers do not overlap.
        let refused = crowd.refused.load(Relaxed);
        assert!(refused > 0 || path == "plans", "{name}: no request was too many");
    }
    rig.assert_valid();
}

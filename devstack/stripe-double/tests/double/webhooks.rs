//! Delivery of events to an endpoint.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Router, routing::post};
use serde_json::{Value, json};
use stripe_double::StripeDoubleOptions;
use stripe_double::WebhookBehavior;
use tokio::net::TcpListener;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::rig::Rig;

const PATIENCE: Duration = Duration::from_secs(30);

/// The deliveries so far, and how many more it refuses.
#[derive(Clone, Default)]
struct Receiver {
    bodies: Arc<Mutex<Vec<Value>>>,
    signatures: Arc<Mutex<Vec<String>>>,
    refuse: Arc<Mutex<usize>>,
}

/// Receives until it is dropped.
struct Endpoint {
    url: String,
    _server: AbortOnDropHandle<std::io::Result<()>>,
}

impl Endpoint {
    fn url(&self) -> &str {
        &self.url
    }
}

impl Receiver {
    async fn start(&self) -> Endpoint {
        let router = Router::new().route("/", post(receive)).with_state(self.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = async move { axum::serve(listener, router).await };
        Endpoint {
            url,
            _server: AbortOnDropHandle::new(TaskTracker::new().spawn(serve)),
        }
    }

    fn ids(&self) -> Vec<String> {
        let bodies = self.bodies.lock().unwrap();
        bodies
            .iter()
            .map(|body| body["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut refuse = receiver.refuse.lock().unwrap();
    if *refuse > 0 {
        *refuse -= 1;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    receiver
        .bodies
        .lock()
        .unwrap()
        .push(serde_json::from_slice(&body).unwrap());
    receiver
        .signatures
        .lock()
        .unwrap()
        .push(headers["stripe-signature"].to_str().unwrap().to_owned());
    StatusCode::OK
}

async fn rig(webhooks: WebhookBehavior) -> (Rig, Receiver, Endpoint) {
    let receiver = Receiver::default();
    let server = receiver.start().await;
    let rig = Rig::start(StripeDoubleOptions {
        webhooks,
        seed: 3,
        ..StripeDoubleOptions::default()
    })
    .await;
    (rig, receiver, server)
}

async fn make_customers(rig: &Rig, count: usize) -> Vec<String> {
    for _ in 0..count {
        rig.customer().await;
    }
    rig.control.events().into_iter().map(|event| event.id).collect()
}

#[tokio::test]
async fn refused_and_lost_deliveries_are_retried() {
    let (rig, receiver, server) = rig(WebhookBehavior {
        drop_first: 2,
        ..WebhookBehavior::default()
    })
    .await;
    *receiver.refuse.lock().unwrap() = 3;
    rig.control.add_webhook(server.url()).unwrap();
    let ids = make_customers(&rig, 6).await;
    rig.control.settle_webhooks(PATIENCE).await.unwrap();
    let mut arrived = receiver.ids();
    arrived.sort();
    let mut expected = ids.clone();
    expected.sort();
    assert_eq!(arrived, expected);
    assert_eq!(
        rig.client.get("/v1/events?delivery_success=false").await["data"],
        json!([])
    );
}

#[tokio::test]
async fn events_for_an_unreachable_endpoint_stay_listed_as_undelivered() {
    let behavior = WebhookBehavior {
        attempts_max: 2,
        ..WebhookBehavior::default()
    };
    let (rig, _, server) = rig(behavior).await;
    let url = server.url().to_owned();
    drop(server);
    rig.control.add_webhook(&url).unwrap();
    make_customers(&rig, 3).await;
    rig.control.settle_webhooks(PATIENCE).await.unwrap();
    let undelivered = rig.client.get("/v1/events?delivery_success=false&limit=2").await;
    assert_eq!(
        (undelivered["data"].as_array().unwrap().len(), &undelivered["has_more"]),
        (2, &json!(true))
    );
    assert_eq!(undelivered["data"][0]["pending_webhooks"], 1);
}

#[tokio::test]
async fn events_can_be_delivered_twice_and_in_another_order() {
    let behavior = WebhookBehavior {
        copies: 2,
        shuffle: true,
        ..WebhookBehavior::default()
    };
    let (rig, receiver, server) = rig(behavior).await;
    rig.control.add_webhook(server.url()).unwrap();
    let ids = make_customers(&rig, 12).await;
    rig.control.settle_webhooks(PATIENCE).await.unwrap();
    let mut counts: HashMap<String, usize> = HashMap::new();
    receiver
        .ids()
        .into_iter()
        .for_each(|id| *counts.entry(id).or_default() += 1);
    assert!(
        counts.len() == ids.len() && counts.values().all(|count| *count == 2),
        "{counts:?}"
    );
    let mut first_seen = receiver.ids();
    first_seen.dedup();
    assert_ne!(first_seen, ids);
}

#[tokio::test]
async fn held_events_are_delivered_by_the_test_in_its_own_order() {
    let (rig, receiver, server) = rig(WebhookBehavior {
        hold: true,
        ..WebhookBehavior::default()
    })
    .await;
    rig.control.add_webhook(server.url()).unwrap();
    let ids = make_customers(&rig, 2).await;
    rig.control.settle_webhooks(PATIENCE).await.unwrap();
    assert_eq!(receiver.ids(), [""; 0]);
    for id in [&ids[1], &ids[0], &ids[1]] {
        assert_eq!(rig.control.deliver(id).await, [Some(200)]);
    }
    assert_eq!(receiver.ids(), [ids[1].clone(), ids[0].clone(), ids[1].clone()]);
    assert!(rig.control.events().iter().all(|event| event.pending == 0));
}

#[tokio::test]
async fn old_and_new_secret_both_sign_until_the_overlap_ends() {
    let (rig, receiver, server) = rig(WebhookBehavior {
        hold: true,
        ..WebhookBehavior::default()
    })
    .await;
    let endpoint = rig.control.add_webhook(server.url()).unwrap();
    let ids = make_customers(&rig, 1).await;
    rig.control.deliver(&ids[0]).await;
    let new = rig.control.roll_webhook_secret(&endpoint, 3_600).unwrap();
    assert_ne!(new, rig.stripe.webhook_secret());
    rig.control.deliver(&ids[0]).await;
    rig.control.advance_by(3_601);
    rig.control.deliver(&ids[0]).await;
    let signatures = receiver.signatures.lock().unwrap();
    let counts: Vec<_> = signatures
        .iter()
        .map(|signature| signature.matches("v1=").count())
        .collect();
    assert_eq!(counts, [1, 2, 1]);
}

#[tokio::test]
async fn older_unknown_and_thin_events_reach_the_endpoint() {
    let (rig, receiver, server) = rig(WebhookBehavior {
        hold: true,
        ..WebhookBehavior::default()
    })
    .await;
    rig.control.add_webhook_of_version(server.url(), "2024-06-20").unwrap();
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    rig.client
        .ok(
            "/v1/subscriptions",
            &format!("customer={customer}&items[0][price]={}", plans.pro),
        )
        .await;
    rig.control.emit_unknown(
        "customer.levitated",
        json!({ "id": customer, "object": "customer", "height": 3 }),
    );
    rig.client
        .meter("cus_nobody", "x", 1, rig.control.now())
        .await
        .ok()
        .unwrap();
    for event in rig.control.events() {
        rig.control.deliver(&event.id).await;
    }
    let bodies = receiver.bodies.lock().unwrap().clone();
    let find = |kind: &str| bodies.iter().find(|body| body["type"] == kind).unwrap();
    let created = find("customer.subscription.created");
    assert_eq!(created["api_version"], "2024-06-20");
    assert!(created["data"]["object"]["current_period_end"].is_i64());
    assert!(find("invoice.paid")["data"]["object"]["subscription"].is_string());
    assert_eq!(find("customer.levitated")["data"]["object"]["height"], 3);
    let thin = find("v1.billing.meter.error_report_triggered");
    assert_eq!(
        (&thin["related_object"]["id"], thin.get("data")),
        (&json!(plans.meter), None)
    );
    let whole = rig
        .client
        .get(&format!("/v2/core/events/{}", thin["id"].as_str().unwrap()))
        .await;
    assert_eq!(
        whole["data"]["reason"]["error_types"][0]["code"],
        "meter_event_customer_not_found"
    );
    assert_eq!(rig.control.violations(), [""; 0]);
}

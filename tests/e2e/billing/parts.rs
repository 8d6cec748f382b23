//! `/readyz` of a billing worker names what is missing, although the worker is ready.

use devstack::{
    http::Http,
    stripe_double::{FaultKind, FaultRule},
};
use harness::{Stack, StackOptions, eventually};
use serde_json::json;

use crate::SERVICES;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_ready_without_nats_and_stripe_and_says_so() {
    let options = StackOptions {
        stripe: true,
        ..StackOptions::default()
    };
    let mut stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "free").await.unwrap();
    let http = Http::default();
    let url = format!("{}/readyz", stack.billing.admin_url());
    // Waits for a line of `/readyz`, which is 200.
    let shows = async |line: &str| {
        eventually("the line is on /readyz", async || {
            let ready = http.get(&url, "").await.ok()?;
            let report = String::from_utf8_lossy(&ready.body).into_owned();
            assert_eq!(ready.status, 200, "{report}");
            report.lines().any(|shown| shown.starts_with(line)).then_some(())
        })
        .await;
    };
    for part in ["clickhouse", "nats", "postgres", "service", "stripe"] {
        shows(&format!("{part}: ok")).await;
    }
    let stripe = stack.stripe.as_ref().unwrap().control();
    stripe.add_fault(FaultRule::new(FaultKind::ServerError));
    let checkout = async || {
        let url = format!("{}/billing/create-checkout-session", stack.billing_url);
        let body = json!({ "tier": "pro" });
        http.post(&url, &ada.key, &body).await.unwrap().status.is_success()
    };
    assert!(!checkout().await);
    shows("stripe: it answers 500 Internal Server Error (since ").await;
    stripe.clear_faults();
    assert!(checkout().await);
    shows("stripe: ok").await;
    stack.nats.kill().await.unwrap();
    shows("nats: disconnected (since ").await;
    stack.nats.restart().await.unwrap();
    shows("nats: ok").await;
}

//! The demo's own traffic: customers on all three plans, within and past their limits, and requests that are refused.

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use rand::seq::SliceRandom;
use serde_json::json;

use super::{
    call::{Call, Driven},
    send::send,
    steps::Steps,
};
use crate::{admin::Customer, system::System};

/// Creates the customers and sends the calls in random order.
pub(super) async fn drive(system: &System, steps: &Steps) -> Result<Driven> {
    let names = ["ada", "ben", "cleo", "dan", "eve", "finn"];
    let plans = ["free", "free", "pro", "pro", "enterprise", "enterprise"];
    steps.say("create 6 accounts with API keys: 2 each on the Free, Pro and Enterprise plan");
    let customers = names
        .iter()
        .zip(plans)
        .map(|(name, plan)| system.admin.customer(name, plan));
    let customers: Vec<Customer> = stream::iter(customers).buffered(4).try_collect().await?;
    let mut calls: Vec<Call> = customers
        .iter()
        .enumerate()
        .flat_map(|(n, customer)| plan_calls(n, &customer.plan))
        .collect();
    calls.extend((0..30).map(|n| Call::new(None, "api_call", Method::GET, &format!("/api/posts/search?q={n}"))));
    calls.shuffle(&mut rand::rng());
    steps.say(&format!(
        "send {} requests through {} gateways, some past the plans' limits, some without a key",
        calls.len(),
        system.gateways.len()
    ));
    let (calls, took) = send(system, &customers, calls, steps).await;
    Ok(Driven {
        customers,
        calls,
        skipped: Default::default(),
        took,
    })
}

/// API calls, exports, batches and texts per batch: past every limit on Free, past some on Pro, within all on Enterprise.
fn plan_calls(customer: usize, plan: &str) -> Vec<Call> {
    let (api_calls, exports, batches, texts) = match plan {
        "free" => (130, 8, 12, 5),
        "pro" => (2_500, 115, 300, 7),
        _ => (5_000, 300, 500, 10),
    };
    let call = |usage_type, method, target: &str| Call::new(Some(customer), usage_type, method, target);
    let searches = (0..api_calls).map(|n| Call {
        // One in fifty fails upstream, and is not charged.
        upstream_status: (n % 50 == 7).then_some(500),
        ..call("api_call", Method::GET, &format!("/api/posts/search?q={n}"))
    });
    let exports = (0..exports).map(|_| call("export", Method::GET, "/api/export/posts/csv"));
    let batches = (0..batches).map(|_| Call {
        units: texts,
        body: Some(json!({ "texts": (0..texts).map(|n| format!("text {n}")).collect::<Vec<_>>() })),
        ..call("sentiment_analysis", Method::POST, "/api/sentiment/analyze-batch")
    });
    searches.chain(exports).chain(batches).collect()
}

//! The demo's own traffic: customers on all three plans, past their limits and within them, and what should be refused.

use std::{net::IpAddr, time::Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Method, header};
use rand::seq::SliceRandom;
use schema::EventId;
use serde_json::{Value, json};

use super::{Driven, progress, say};
use crate::{
    admin::Customer,
    http::{Answer, Http, request},
    system::System,
};

/// Requests in flight at a time.
const CONCURRENCY: usize = 64;

/// One request: what is sent, and then what was answered.
#[derive(Clone, Debug)]
pub struct Call {
    /// Index of the customer; `None`: sent without a key that works.
    pub customer: Option<usize>,
    pub usage_type: &'static str,
    pub units: i64,
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub body: Option<Value>,
    /// The status that the upstream shall answer with.
    pub upstream_status: Option<u16>,
    /// The client's address and agent, where they are somebody's.
    pub client: Option<(IpAddr, String)>,
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered well: charged, and stored as this event.
    Accepted(EventId),
    /// Admitted, then failed: stored as this event with 0 units.
    Failed(EventId),
    /// Not admitted, with the problem's `error`.
    Refused(String),
    /// `504 outcome_unknown`: stored once or not at all.
    Unknown,
}

impl Call {
    pub fn new(customer: Option<usize>, usage_type: &'static str, method: Method, target: &str) -> Self {
        Self {
            customer,
            usage_type,
            units: 1,
            method,
            target: target.to_owned(),
            body: None,
            upstream_status: None,
            client: None,
            outcome: None,
        }
    }
}

/// Makes the customers, sends the calls in random order through all gateways, and notes what was answered.
pub async fn drive(system: &System) -> Result<Driven> {
    say("creating accounts and keys on all three plans");
    let names = ["ada", "ben", "cleo", "dan", "eve", "finn"];
    let plans = ["free", "free", "pro", "pro", "enterprise", "enterprise"];
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
    send(system, customers, calls, 0).await
}

/// Api calls, exports, batches and texts a batch: past every limit on Free, past some on Pro, within all on Enterprise.
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

/// Sends all calls, a bounded number at a time.
pub async fn send(system: &System, customers: Vec<Customer>, calls: Vec<Call>, unreadable: usize) -> Result<Driven> {
    let (http, started, of) = (Http::default(), Instant::now(), calls.len());
    let (customers_ref, gateways) = (&customers, &system.gateways);
    let sent = stream::iter(calls.into_iter().enumerate()).map(|(n, mut call)| {
        let (http, url) = (http.clone(), &gateways[n % gateways.len()].url);
        async move {
            let key = call.customer.map_or("", |customer| &customers_ref[customer].key);
            let mut message = request(
                call.method.clone(),
                &format!("{url}{}", call.target),
                key,
                call.body.as_ref(),
            )?;
            if let Some(status) = call.upstream_status {
                message.headers_mut().insert("x-demo-status", HeaderValue::from(status));
            }
            if let Some((address, agent)) = &call.client {
                message
                    .headers_mut()
                    .insert("x-forwarded-for", HeaderValue::try_from(address.to_string())?);
                let agent = HeaderValue::from_bytes(agent.as_bytes()).context("an agent that no header can carry")?;
                message.headers_mut().insert(header::USER_AGENT, agent);
            }
            call.outcome = Some(outcome(&http.send(message).await?)?);
            anyhow::Ok(call)
        }
    });
    let mut done = 0;
    let calls = sent
        .buffer_unordered(CONCURRENCY)
        .inspect(|_| {
            done += 1;
            progress(done, of);
        })
        .try_collect()
        .await?;
    Ok(Driven {
        customers,
        calls,
        unreadable,
        took: started.elapsed(),
    })
}

fn outcome(answer: &Answer) -> Result<Outcome> {
    if let Some(event) = answer.header("usage-event-id") {
        let event = event.parse().context("Usage-Event-Id is no id")?;
        return Ok(if answer.status.as_u16() < 400 {
            Outcome::Accepted(event)
        } else {
            Outcome::Failed(event)
        });
    }
    let problem = answer
        .json()
        .with_context(|| format!("{}: neither an event nor a problem", answer.status))?;
    match problem["error"]
        .as_str()
        .with_context(|| format!("{}: a problem without `error`", answer.status))?
    {
        "outcome_unknown" => Ok(Outcome::Unknown),
        error => Ok(Outcome::Refused(error.to_owned())),
    }
}

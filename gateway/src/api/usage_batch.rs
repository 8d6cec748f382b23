//! `POST /v1/usage/batch`: up to 1,000 reports, each decided on and recorded by itself, whole or not at all.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use futures_util::future::join_all;
use schema::{UsageType, clock};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    authenticate, json,
    reported::{Answer, Reported, Usage},
};
use crate::{
    account::Key,
    admission::QuotaView,
    body, burst,
    client::{Client, TEXT_MAX},
    gateway::Gateway,
    idempotency_key,
    metering::{self, Receipt},
    problem::{self, Kind, Problem},
    publisher::{Outgoing, Slot},
    rate_limit,
};

/// Events in one request.
pub const EVENTS_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with an array `events`")]
struct Batch<'a> {
    /// Unread, so that one that is wrong does not spoil the others.
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct Results<'a> {
    results: Vec<Item<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Recorded {
        status: u16,
        #[serde(flatten)]
        answer: Answer,
    },
    Problem(problem::Item<'a>),
}

/// Events that go to the lane in one message, with their places among the results.
struct Entry {
    slot: Slot,
    outgoing: Vec<Outgoing>,
    indices: Vec<usize>,
    bytes: usize,
}

pub async fn record(
    State(gateway): State<Arc<Gateway>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, content) = request.into_parts();
    let time_ms = clock::now_ms();
    let now_s = time_ms.div_euclid(1_000);
    let key = authenticate(&gateway, &parts.uri, &parts.headers, now_s).await?;
    let burst = burst::take(&key, now_s)?;
    let idempotency_key = idempotency_key::of(&parts.headers)?;
    let content = body::read_json(&parts.headers, content, gateway.settings.body_max).await?;
    let Batch { events } = body::parse(&content)?;
    if events.len() > EVENTS_MAX {
        let detail = format!("a batch has at most {EVENTS_MAX} events, not {}", events.len());
        return Err(Problem::new(Kind::TooLarge, detail));
    }
    let read = |(index, event): (usize, &&RawValue)| {
        let reported: Reported = body::parse(event.get().as_bytes())?;
        let idempotency_key = idempotency_key.map(|key| format!("{key}/{index}"));
        reported.read(&gateway.catalogue, parts.uri.path(), &client, idempotency_key, time_ms)
    };
    let usages = events.iter().enumerate().map(read).collect();
    let results = record_each(&gateway, &key, usages).await;

    let mut quotas: Vec<(UsageType, QuotaView)> = Vec::new();
    for receipt in results.iter().flatten() {
        quotas.retain(|(usage_type, _)| *usage_type != receipt.usage_type);
        quotas.push((receipt.usage_type, receipt.quota));
    }
    for problem in results.iter().filter_map(|result| result.as_ref().err()) {
        gateway.metrics.problem(problem.kind);
    }
    let mut response = json(&Results {
        results: results
            .iter()
            .map(|result| item(result, &gateway.settings.upgrade_url))
            .collect(),
    });
    rate_limit::insert(response.headers_mut(), &quotas, clock::now_s());
    rate_limit::insert_burst(response.headers_mut(), burst);
    Ok(response)
}

fn item<'a>(result: &'a Result<Receipt, Problem>, upgrade_url: &'a str) -> Item<'a> {
    match result {
        Ok(receipt) => Item::Recorded {
            status: 200,
            answer: Answer::from(receipt),
        },
        Err(problem) => Item::Problem(problem.item(upgrade_url)),
    }
}

/// Decides in the order of the batch, and records in as few messages as can be.
///
/// Dropped while it decides, it gives back what it was admitted; dropped later, it changes nothing: the lane has the events.
async fn record_each(
    gateway: &Gateway,
    key: &Key,
    usages: Vec<Result<Usage, Problem>>,
) -> Vec<Result<Receipt, Problem>> {
    let mut results = Vec::with_capacity(usages.len());
    let mut entries: Vec<Entry> = Vec::new();
    for (index, usage) in usages.into_iter().enumerate() {
        results.push(match usage {
            Ok(usage) => admit(gateway, key, usage, &mut entries, index).await,
            Err(problem) => Err(problem),
        });
    }
    let published = entries
        .into_iter()
        .map(async |entry| (entry.slot.publish(entry.outgoing).await, entry.indices));
    for (outcome, indices) in join_all(published).await {
        for index in indices {
            if let Err(problem) = metering::settled(gateway, outcome) {
                results[index] = Err(problem);
            }
        }
    }
    results
}

/// Admits one report and puts its event into the last entry, or into a new one where that is full.
async fn admit(
    gateway: &Gateway,
    key: &Key,
    usage: Usage,
    entries: &mut Vec<Entry>,
    index: usize,
) -> Result<Receipt, Problem> {
    // The place comes first, as everywhere: there must be one before a unit is spent.
    let has_room = entries
        .last()
        .is_some_and(|entry| entry.bytes + EVENT_BYTES_MAX <= Slot::BYTES_MAX);
    let fresh = if has_room {
        None
    } else {
        Some(metering::reserve(gateway, key)?)
    };
    let now_s = usage.facts.time_ms.div_euclid(1_000);
    let admission = metering::admit_units(gateway, key, usage.usage_type, usage.cost_units, now_s).await?;
    let (receipt, event) = metering::charged(key, &admission, usage.facts, usage.status);
    entries.extend(fresh.map(|slot| Entry {
        slot,
        outgoing: Vec::new(),
        indices: Vec::new(),
        bytes: 0,
    }));
    if let Some(entry) = entries.last_mut() {
        entry.bytes += event.size();
        entry.outgoing.push(Outgoing {
            event,
            units: Some(admission),
        });
        entry.indices.push(index);
    }
    Ok(receipt)
}

/// The most that one event of a batch takes: three texts of [`TEXT_MAX`] bytes, a request id and an idempotency key of 128 and 260, six
/// ids and numbers of less than 300 together.
const EVENT_BYTES_MAX: usize = 3 * TEXT_MAX + 128 + 260 + 300;

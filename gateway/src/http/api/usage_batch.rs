//! `POST /v1/usage/batch`: up to 1,000 reports, each decided on and recorded by itself, completely or not at all.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use futures_util::future::join_all;
use schema::{UsageEvent, UsageType, clock};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;

use super::{
    json,
    posted::{Posted, once},
    reported::{Reported, Usage, UsageResponse},
};
use crate::{
    accounts::key::Key,
    http::{
        body,
        client::{Client, TEXT_MAX},
        gateway::Gateway,
        idempotency_key,
        problem::{self, Kind, Problem, is_of_the_body},
        rate_limit, replay,
    },
    quota::QuotaView,
    recording::{
        event::{self, Receipt},
        publisher::{self, Outgoing, Slot},
        responses::{Counted, Try},
    },
};

/// Events in one request.
pub const EVENTS_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    /// Not parsed yet, so that the others are recorded even if one is wrong.
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

/// A report that waits for its decision, or its known result.
enum Item {
    Read(Usage),
    Wrong(Problem),
    /// An earlier try of this batch counted it, with this result.
    Counted(Box<RawValue>),
}

/// The result of one report.
enum ItemOutcome {
    Recorded(Receipt),
    Problem(Problem),
    Counted(Box<RawValue>),
}

#[derive(Serialize)]
struct BatchResponse<'a> {
    results: Vec<ItemResult<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ItemResult<'a> {
    Recorded {
        status: u16,
        #[serde(flatten)]
        response: UsageResponse,
    },
    Problem(problem::ItemProblem<'a>),
    Counted(&'a RawValue),
}

/// Events that go to the lane in one message.
struct Entry {
    slot: Slot,
    outgoing: Vec<Outgoing>,
    /// The same events, with their indices among the results: if the run ends, the next one records them.
    events: Vec<(usize, UsageEvent)>,
    bytes: usize,
}

pub async fn record(
    State(gateway): State<Arc<Gateway>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Problem> {
    let posted = Posted::read(&gateway, client, request).await?;
    once(gateway, posted, record_once).await
}

async fn record_once(
    gateway: Arc<Gateway>,
    posted: Posted,
    attempt: Option<Try>,
) -> Result<axum::http::Response<Bytes>, Problem> {
    let counted = attempt.as_ref().and_then(|attempt| attempt.counted.clone());
    let (key, items) = match read(&gateway, posted, counted) {
        Ok(read) => read,
        Err(problem) => {
            if let Some(attempt) = attempt {
                attempt.not_counted();
            }
            return Err(problem);
        }
    };
    let outcomes = record_each(&gateway, &key, items).await;
    for outcome in &outcomes {
        if let ItemOutcome::Problem(problem) = outcome {
            gateway.metrics.problem(problem.kind);
        }
    }
    let response = respond(&gateway, &outcomes);
    if let Some(attempt) = attempt {
        settle(attempt, &outcomes, &response);
    }
    Ok(response)
}

/// Drops the body, so that no request waits with it in memory.
fn read(gateway: &Gateway, posted: Posted, counted: Option<Counted>) -> Result<(Arc<Key>, Vec<Item>), Problem> {
    let Batch { events } = body::parse(&posted.content)?;
    if events.len() > EVENTS_MAX {
        let detail = format!("`events` must have at most {EVENTS_MAX} items, got {}", events.len());
        return Err(Problem::new(Kind::TooLarge, detail));
    }
    let read = |index: usize, event: &RawValue| {
        let name = || format!("events[{index}]");
        let reported: Reported = ::problem::json::read_item(name, event.get().as_bytes()).map_err(Problem::invalid)?;
        let key = posted.idempotency_key.as_deref();
        let key = key.map(|key| idempotency_key::of_item(key, index));
        let account = posted.key.account.id;
        reported.read(
            &gateway.catalogue,
            posted.path(),
            &posted.client,
            account,
            key,
            posted.time_ms,
        )
    };
    let counted = |index: usize| counted.as_ref()?.get(index)?.clone();
    let items = events.iter().enumerate().map(|(index, event)| match counted(index) {
        Some(item) => Item::Counted(item),
        None => read(index, event).map_or_else(Item::Wrong, Item::Read),
    });
    let items = items.collect();
    Ok((posted.key, items))
}

fn respond(gateway: &Gateway, outcomes: &[ItemOutcome]) -> axum::http::Response<Bytes> {
    let mut quotas: Vec<(UsageType, QuotaView)> = Vec::new();
    for outcome in outcomes {
        if let ItemOutcome::Recorded(receipt) = outcome {
            quotas.retain(|(usage_type, _)| *usage_type != receipt.usage_type);
            quotas.push((receipt.usage_type, receipt.quota));
        }
    }
    let upgrade_url = &gateway.settings.upgrade_url;
    let mut response = json(&BatchResponse {
        results: outcomes.iter().map(|outcome| outcome.result(upgrade_url)).collect(),
    });
    rate_limit::insert(response.headers_mut(), &quotas, clock::now_s());
    response
}

impl ItemOutcome {
    /// As the response shows it.
    fn result<'a>(&'a self, upgrade_url: &str) -> ItemResult<'a> {
        match self {
            Self::Recorded(receipt) => ItemResult::Recorded {
                status: 200,
                response: UsageResponse::from(receipt),
            },
            Self::Problem(problem) => ItemResult::Problem(problem.item(upgrade_url)),
            Self::Counted(item) => ItemResult::Counted(item),
        }
    }
}

/// The response is final if each item was counted or can never be counted. Otherwise the counted items are kept, and the next
/// try handles only the other items: near a limit, there would not be enough units to count all of them again.
fn settle(attempt: Try, outcomes: &[ItemOutcome], response: &axum::http::Response<Bytes>) {
    let kind = |outcome: &ItemOutcome| match outcome {
        ItemOutcome::Problem(problem) => Some(problem.kind),
        ItemOutcome::Recorded(_) | ItemOutcome::Counted(_) => None,
    };
    let mut kinds = outcomes.iter().filter_map(kind);
    if kinds.clone().all(is_of_the_body) {
        return attempt.answered(replay::stored(response));
    }
    let counted: Vec<_> = outcomes.iter().map(counted).collect();
    if counted.iter().any(Option::is_some) || kinds.any(|kind| kind == Kind::OutcomeUnknown) {
        return attempt.counted_in_part(counted.into());
    }
    attempt.not_counted();
}

fn counted(outcome: &ItemOutcome) -> Option<Box<RawValue>> {
    match outcome {
        ItemOutcome::Recorded(_) => to_raw_value(&outcome.result("")).ok(),
        ItemOutcome::Counted(item) => Some(item.clone()),
        ItemOutcome::Problem(_) => None,
    }
}

/// Decides in the order of the batch, and records in as few messages as possible.
///
/// If it is dropped while it decides, all units are given back. Dropping it later changes nothing: the lane has the events.
async fn record_each(gateway: &Gateway, key: &Key, items: Vec<Item>) -> Vec<ItemOutcome> {
    let mut outcomes = Vec::with_capacity(items.len());
    let mut entries: Vec<Entry> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        outcomes.push(match item {
            Item::Read(usage) => match admit(gateway, key, usage, &mut entries, index).await {
                Ok(receipt) => ItemOutcome::Recorded(receipt),
                Err(problem) => ItemOutcome::Problem(problem),
            },
            Item::Wrong(problem) => ItemOutcome::Problem(problem),
            Item::Counted(item) => ItemOutcome::Counted(item),
        });
    }
    let deadline = Instant::now() + gateway.recorder.current_run.patience;
    let published = entries
        .into_iter()
        .map(|entry| async { (entry.slot.publish(entry.outgoing).await, entry.events) });
    let mut again = Vec::new();
    for (lane, events) in join_all(published).await {
        for (index, event) in events {
            match (lane, &outcomes[index]) {
                (publisher::PublishOutcome::RunEnded(run), ItemOutcome::Recorded(receipt)) => {
                    let receipt = *receipt;
                    again.push(async move {
                        let charged = gateway.recorder.charge_again(key, receipt, event, run, deadline).await;
                        (index, charged)
                    });
                }
                _ => {
                    if let Err(error) = gateway.recorder.settled(lane) {
                        outcomes[index] = ItemOutcome::Problem(error.into());
                    }
                }
            }
        }
    }
    for (index, charged) in join_all(again).await {
        outcomes[index] = charged.map_or_else(|error| ItemOutcome::Problem(error.into()), ItemOutcome::Recorded);
    }
    outcomes
}

/// Admits one report and puts its event into the last entry, or into a new one if that is full.
async fn admit(
    gateway: &Gateway,
    key: &Key,
    usage: Usage,
    entries: &mut Vec<Entry>,
    index: usize,
) -> Result<Receipt, Problem> {
    // The slot comes first, as everywhere: there must be one before a unit is spent.
    let has_room = entries
        .last()
        .is_some_and(|entry| entry.bytes + EVENT_BYTES_MAX <= Slot::BYTES_MAX);
    let fresh = if has_room {
        None
    } else {
        Some(gateway.recorder.reserve(key)?)
    };
    let now_s = usage.facts.time_ms.div_euclid(1_000);
    let admission = gateway
        .recorder
        .admit_units(key, usage.usage_type, usage.cost_units, now_s)
        .await?;
    let (receipt, event) = event::charged(key, &admission, usage.facts, usage.status);
    entries.extend(fresh.map(|slot| Entry {
        slot,
        outgoing: Vec::new(),
        events: Vec::new(),
        bytes: 0,
    }));
    if let Some(entry) = entries.last_mut() {
        let encoded = event.encode();
        entry.bytes += encoded.size();
        entry.outgoing.push(Outgoing {
            event: encoded,
            units: Some(admission),
        });
        entry.events.push((index, event));
    }
    Ok(receipt)
}

/// The most that one event of a batch takes: three texts of [`TEXT_MAX`] bytes, a request id and an idempotency key of 128
/// and 260, six ids and numbers of less than 300 together.
const EVENT_BYTES_MAX: usize = 3 * TEXT_MAX + 128 + 260 + 300;

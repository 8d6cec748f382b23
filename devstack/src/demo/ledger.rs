//! The ledger check: every accepted request is stored once, as it was sent, and no account was admitted past a limit.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clickhouse::Row;
use schema::{AccountId, Catalogue, EventId, usage_event::stored_address};
use serde::Deserialize;
use uuid::Uuid;

use super::call::{Call, CallOutcome, Driven};
use crate::system::Endpoints;

/// Bytes of a path or a user agent that the gateway stores.
const STORED_TEXT_MAX: usize = 2048;
/// Storing takes about a second; more than this is a failure, not a delay.
const STORED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Deserialize, Row)]
pub(super) struct StoredEvent {
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    account_id: Uuid,
    pub usage_type: String,
    pub cost_units: i64,
    endpoint: String,
    method: String,
    status: u16,
    ip_address: Ipv6Addr,
    user_agent: String,
}

/// How many events are wrong, and in which way.
#[derive(Clone, Debug, Default)]
pub(super) struct Check {
    /// Accepted, but not stored.
    pub lost: usize,
    /// Stored more than once.
    pub doubled: usize,
    /// Stored, but never sent.
    pub invented: usize,
    /// Stored with other values than sent: units, account, type, path, method, status, address or user agent.
    pub different: usize,
    /// Units admitted past an account's limit.
    pub over_admitted: i64,
    /// Requests to which a gateway gave no HTTP answer.
    pub unanswered: usize,
    /// Descriptions of the first few.
    pub examples: Vec<String>,
    pub stored: Vec<StoredEvent>,
}

impl StoredEvent {
    pub(super) fn account_id(&self) -> AccountId {
        AccountId(self.account_id)
    }
}

impl Check {
    pub(super) fn is_ok(&self) -> bool {
        self.lost + self.doubled + self.invented + self.different + self.unanswered == 0 && self.over_admitted == 0
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < 5 {
            self.examples.push(text);
        }
    }
}

/// Waits until every accepted request is stored, and compares the stored events with the requests.
pub(super) async fn check(endpoints: &Endpoints, driven: &Driven, catalogue: &Catalogue) -> Result<Check> {
    let client = clickhouse::Client::default()
        .with_url(&endpoints.clickhouse_url)
        .with_user(std::env::var("CLICKHOUSE_USER").unwrap_or_else(|_| "default".into()))
        .with_password(std::env::var("CLICKHOUSE_PASSWORD").unwrap_or_default())
        .with_database(&endpoints.clickhouse_database);
    let certain =
        |outcome: &Option<CallOutcome>| matches!(outcome, Some(CallOutcome::Accepted(_) | CallOutcome::Failed(_)));
    let expected = driven.calls.iter().filter(|call| certain(&call.outcome)).count() as u64;
    let end = Instant::now() + STORED_WITHIN;
    loop {
        let stored: u64 = client
            .query("select count() from usage_events")
            .fetch_one()
            .await
            .context("counting events")?;
        if stored >= expected || Instant::now() > end {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let columns = "event_id, account_id, usage_type, cost_units, endpoint, method, status, ip_address, user_agent";
    let stored: Vec<StoredEvent> = client
        .query(&format!("select {columns} from usage_events"))
        .fetch_all()
        .await
        .context("reading the events back")?;
    Ok(compare(driven, stored, catalogue))
}

fn compare(driven: &Driven, stored: Vec<StoredEvent>, catalogue: &Catalogue) -> Check {
    let mut check = Check::default();
    let mut by_id: HashMap<EventId, Vec<&StoredEvent>> = HashMap::new();
    for event in &stored {
        by_id.entry(EventId(event.event_id)).or_default().push(event);
    }
    let mut unknown = 0;
    for call in &driven.calls {
        let (id, units) = match &call.outcome {
            Some(CallOutcome::Accepted(id)) => (id, call.units),
            Some(CallOutcome::Failed(id)) => (id, 0),
            Some(CallOutcome::Unknown) => {
                unknown += 1;
                continue;
            }
            Some(CallOutcome::Unanswered(reason)) => {
                unknown += 1;
                check.unanswered += 1;
                check.example(format!("no answer: {} {}: {reason}", call.method, call.target));
                continue;
            }
            Some(CallOutcome::Refused(_)) | None => continue,
        };
        let rows = by_id.remove(id).unwrap_or_default();
        let Some(row) = rows.first() else {
            check.lost += 1;
            check.example(format!("lost: {id} {} {}", call.method, call.target));
            continue;
        };
        check.doubled += rows.len() - 1;
        let customer = call.customer.map(|customer| driven.customers[customer].account_id);
        let same = row.cost_units == units
            && Some(row.account_id()) == customer
            && row.usage_type == call.usage_type
            && row.endpoint == stored_text(path(call))
            && row.method == call.method.as_str()
            && row.status == call.upstream_status.unwrap_or(200)
            && call.client.as_ref().is_none_or(|(address, agent)| {
                row.ip_address == stored_address(*address) && row.user_agent == stored_text(agent)
            });
        if !same {
            check.different += 1;
            check.example(format!("different: {call:?} is stored as {row:?}"));
        }
    }
    // The events that are left have no known answer. Each request with an unknown outcome may have stored one.
    check.invented = by_id.len().saturating_sub(unknown);
    if let Some(id) = by_id.keys().next().filter(|_| check.invented > 0) {
        check.example(format!("invented: {id}"));
    }
    check.over_admitted = over_admitted(driven, &stored, catalogue);
    check.stored = stored;
    check
}

fn path(call: &Call) -> &str {
    call.target.split('?').next().unwrap_or_default()
}

/// The part of a text that the gateway stores.
fn stored_text(text: &str) -> &str {
    &text[..text.floor_char_boundary(STORED_TEXT_MAX)]
}

fn over_admitted(driven: &Driven, stored: &[StoredEvent], catalogue: &Catalogue) -> i64 {
    let mut spent: BTreeMap<(AccountId, &str), i64> = BTreeMap::new();
    for event in stored {
        *spent.entry((event.account_id(), &event.usage_type)).or_default() += event.cost_units;
    }
    let limit = |account: AccountId, usage_type: &str| {
        let customer = driven
            .customers
            .iter()
            .find(|customer| customer.account_id == account)?;
        Some(
            catalogue
                .plan(&customer.plan)?
                .allowance(catalogue.usage_type(usage_type)?)
                .limit,
        )
    };
    let past =
        |((account, usage_type), units): (&(AccountId, &str), &i64)| units - limit(*account, usage_type).unwrap_or(0);
    spent.iter().map(past).filter(|past| *past > 0).sum()
}

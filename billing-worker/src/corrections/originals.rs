//! Reads the original events from ClickHouse.

use std::{collections::HashMap, net::Ipv6Addr, time::Duration};

use clickhouse::{Client, Row};
use schema::{AccountId, EventId, LeaseId, SubscriptionId};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::Error;

/// For one query. It reads by account, so a large account takes a while.
const PATIENCE: Duration = Duration::from_secs(30);

/// The fields of an event that a correction needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Original {
    pub usage_type: String,
    /// Unix seconds.
    pub period_start: i64,
    pub cost_units: i64,
    /// [`LeaseId::NIL`]: no pool paid for the units.
    pub lease_id: LeaseId,
    /// Not nil: the event is itself a correction.
    pub corrects: EventId,
    pub facts: Facts,
}

/// Fields that the correcting event copies and that nothing here reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub subscription_id: SubscriptionId,
    pub endpoint: String,
    pub method: String,
    pub status: u16,
    pub request_id: String,
    pub ip_address: Ipv6Addr,
    pub user_agent: String,
    /// Unix milliseconds.
    pub time_ms: i64,
}

#[derive(Row, Deserialize)]
struct Stored {
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    subscription_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    lease_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    corrects: Uuid,
    period_start: i64,
    usage_type: String,
    cost_units: i64,
    endpoint: String,
    method: String,
    status: u16,
    request_id: String,
    ip_address: Ipv6Addr,
    user_agent: String,
    time_ms: i64,
}

/// Returns the events that are stored for the account. An event with two records has the units of both. Repeated rows of one
/// record count once: an insert may have stored them twice, until an audit removes them.
pub async fn read(
    clickhouse: &Client,
    account: AccountId,
    events: &[EventId],
) -> Result<HashMap<EventId, Original>, Error> {
    let query = clickhouse
        .query(
            "select event_id, subscription_id, lease_id, corrects, toInt64(toUnixTimestamp(period_start)) as period_start,
                    toString(usage_type) as usage_type, cost_units, endpoint, toString(method) as method, status, request_id,
                    ip_address, user_agent, toUnixTimestamp64Milli(ts) as time_ms
             from usage_events where account_id = ? and event_id in ?
             limit 1 by generation, shard, stream_seq, idx",
        )
        .bind(account.0.to_string())
        .bind(texts(events));
    let mut originals = HashMap::new();
    for stored in answered(query.fetch_all::<Stored>()).await? {
        let (event, original) = stored.into_original();
        let units = original.cost_units;
        originals
            .entry(event)
            .and_modify(|known: &mut Original| known.cost_units += units)
            .or_insert(original);
    }
    Ok(originals)
}

/// Returns which of the events are stored for the account, on any replica.
pub async fn stored(clickhouse: &Client, account: AccountId, events: &[EventId]) -> Result<Vec<EventId>, Error> {
    #[derive(Row, Deserialize)]
    struct Id {
        #[serde(with = "clickhouse::serde::uuid")]
        event_id: Uuid,
    }
    let query = clickhouse
        .query("select distinct event_id from usage_events where account_id = ? and event_id in ?")
        .with_setting("select_sequential_consistency", "1")
        .bind(account.0.to_string())
        .bind(texts(events));
    let rows = answered(query.fetch_all::<Id>()).await?;
    Ok(rows.into_iter().map(|row| EventId(row.event_id)).collect())
}

fn texts(events: &[EventId]) -> Vec<String> {
    events.iter().map(EventId::to_string).collect()
}

async fn answered<T>(query: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T, Error> {
    match timeout(PATIENCE, query).await {
        Ok(answer) => answer.map_err(|error| Error::ClickHouse(error.to_string())),
        Err(_) => Err(Error::ClickHouse(format!("no answer within {PATIENCE:?}"))),
    }
}

impl Stored {
    fn into_original(self) -> (EventId, Original) {
        let original = Original {
            usage_type: self.usage_type,
            period_start: self.period_start,
            cost_units: self.cost_units,
            lease_id: LeaseId(self.lease_id),
            corrects: EventId(self.corrects),
            facts: Facts {
                subscription_id: SubscriptionId(self.subscription_id),
                endpoint: self.endpoint,
                method: self.method,
                status: self.status,
                request_id: self.request_id,
                ip_address: self.ip_address,
                user_agent: self.user_agent,
                time_ms: self.time_ms,
            },
        };
        (EventId(self.event_id), original)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn original() -> Original {
        Original {
            usage_type: "api_call".into(),
            period_start: 1_793_491_200,
            cost_units: 10,
            lease_id: LeaseId::new(),
            corrects: EventId::NIL,
            facts: Facts {
                subscription_id: SubscriptionId::NIL,
                endpoint: "/api/posts/search".into(),
                method: "GET".into(),
                status: 200,
                request_id: "r".into(),
                ip_address: "::ffff:192.0.2.7".parse().unwrap(),
                user_agent: "a NUL \0 and all".into(),
                time_ms: 1_795_420_800_123,
            },
        }
    }
}

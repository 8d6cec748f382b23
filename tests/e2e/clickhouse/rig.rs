//! A database with the tables for each test, and rows as the ingestor writes them.

use std::sync::Arc;

use clickhouse::{Client, Row};
use devstack::Servers;
use ingestor::migrate::{self, MigrateSettings};
use schema::{AccountId, Period};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, ext::NumericalDuration};
use uuid::Uuid;

/// The columns that the ingestor inserts and that sums and positions need.
#[derive(Clone, Row, Serialize)]
pub(super) struct Event {
    pub generation: u32,
    pub shard: u16,
    pub stream_seq: u64,
    pub idx: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    pub event_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub account_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub lease_id: Uuid,
    #[serde(with = "clickhouse::serde::time::datetime")]
    pub period_start: OffsetDateTime,
    pub usage_type: String,
    pub cost_units: i64,
    #[serde(with = "clickhouse::serde::time::datetime64::millis")]
    pub ts: OffsetDateTime,
    #[serde(with = "clickhouse::serde::time::datetime64::millis")]
    pub ingested_at: OffsetDateTime,
}

#[derive(Debug, PartialEq, Row, Deserialize)]
pub(super) struct Sums {
    pub units: i64,
    pub events: u64,
}

/// A new database on the shared server.
pub(super) struct Tables {
    pub servers: Arc<Servers>,
    pub client: Client,
}

impl Tables {
    pub(super) async fn new() -> Self {
        let servers = Servers::shared().await.unwrap();
        let client = servers.clickhouse.client().with_database(name());
        migrate::run(&client, &MigrateSettings::default()).await.unwrap();
        Self { servers, client }
    }

    /// Sums from the view `usage`, as all readers do.
    pub(super) async fn usage(&self, condition: &str) -> Sums {
        sums(&self.client, "usage", "sum(events)", condition).await
    }

    pub(super) async fn rows(&self, condition: &str) -> Sums {
        sums(&self.client, "usage_events", "count()", condition).await
    }
}

pub(super) fn name() -> String {
    format!("test_{:016x}", rand::random::<u64>())
}

pub(super) async fn sums(client: &Client, table: &str, events: &str, condition: &str) -> Sums {
    let query = format!("select sum(cost_units) as units, {events} as events from {table} where {condition}");
    client.query_raw(&query).fetch_one().await.unwrap()
}

/// Events of one account with these costs, in one batch. Their times are a minute apart, starting at `ts`.
pub(super) fn batch(account: AccountId, stream_seq: u64, ts: OffsetDateTime, costs: &[i64]) -> Vec<Event> {
    let period_start = Period::calendar_month(ts.unix_timestamp()).start;
    let event = |(idx, cost_units): (usize, &i64)| Event {
        generation: 1,
        shard: 3,
        stream_seq,
        idx: idx as u32,
        event_id: Uuid::new_v4(),
        account_id: account.0,
        lease_id: Uuid::from_u128(u128::from(stream_seq)),
        period_start: schema::period::instant(period_start),
        usage_type: "api_call".into(),
        cost_units: *cost_units,
        ts: ts + (idx as i64).minutes(),
        ingested_at: ts + 1.seconds(),
    };
    costs.iter().enumerate().map(event).collect()
}

pub(super) async fn insert(client: &Client, token: &str, events: &[Event]) -> clickhouse::error::Result<()> {
    // Validation would refuse the missing columns, which have no default.
    let client = client.clone().with_validation(false);
    let mut insert = client
        .insert::<Event>("usage_events")
        .await?
        .with_setting("insert_deduplication_token", token)
        .with_setting("async_insert", "0");
    for event in events {
        insert.write(event).await?;
    }
    insert.end().await
}

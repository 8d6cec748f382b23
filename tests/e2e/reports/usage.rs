//! Inserts usage directly into ClickHouse.

use clickhouse::{Client, Row};
use schema::{AccountId, Period, period::instant};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

/// The columns that the ingestor inserts, as far as sums need them.
#[derive(Clone, Row, Serialize)]
struct Event {
    generation: u32,
    stream_seq: u64,
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    account_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    corrects: Uuid,
    #[serde(with = "clickhouse::serde::time::datetime")]
    period_start: OffsetDateTime,
    usage_type: String,
    cost_units: i64,
    #[serde(with = "clickhouse::serde::time::datetime64::millis")]
    ts: OffsetDateTime,
    #[serde(with = "clickhouse::serde::time::datetime64::millis")]
    ingested_at: OffsetDateTime,
}

/// Inserts units of a period at once, one event each. They are used at its start.
pub(crate) async fn insert(
    client: &Client,
    now_s: i64,
    period: Period,
    units: impl IntoIterator<Item = (AccountId, &str, i64)>,
    corrects: Uuid,
) {
    // The omitted columns have no default, so validation would refuse the insert.
    let client = client.clone().with_validation(false);
    let mut insert = client
        .insert::<Event>("usage_events")
        .await
        .unwrap()
        .with_setting("async_insert", "0");
    for (account, usage_type, cost_units) in units {
        let event = Event {
            generation: 1,
            stream_seq: rand::random(),
            event_id: Uuid::new_v4(),
            account_id: account.0,
            corrects,
            period_start: instant(period.start),
            usage_type: usage_type.to_owned(),
            cost_units,
            ts: instant(period.start),
            ingested_at: instant(now_s),
        };
        insert.write(&event).await.unwrap();
    }
    insert.end().await.unwrap();
}

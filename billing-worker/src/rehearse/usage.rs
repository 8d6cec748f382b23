//! Usage as the ingestor stores it, without a gateway: for rehearsals and tests.

use anyhow::{Context, Result};
use clickhouse::{Client, Row};
use schema::{AccountId, Period, period::instant};
use serde::Serialize;
use sqlx::PgPool;
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
pub async fn insert(
    client: &Client,
    now_s: i64,
    period: Period,
    units: impl IntoIterator<Item = (AccountId, &str, i64)>,
    corrects: Uuid,
) -> Result<()> {
    // The omitted columns have no default, so validation would refuse the insert.
    let client = client.clone().with_validation(false);
    let insert = client.insert::<Event>("usage_events").await?;
    let mut insert = insert.with_setting("async_insert", "0");
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
        insert.write(&event).await?;
    }
    insert.end().await.context("inserting usage into ClickHouse")
}

/// Voids units of a period, as a correction does.
pub async fn correct(
    db: &PgPool,
    client: &Client,
    now_s: i64,
    period: Period,
    (account, usage_type, units): (AccountId, &str, i64),
) -> Result<()> {
    let event = Uuid::new_v4();
    sqlx::query!(
        "insert into corrections (id, correction_id, account_id, event_id, usage_type, period_start, cost_units, delta_units,
             units_after, leased, original, reason, requested_by)
         values (gen_random_uuid(), gen_random_uuid(), $1, $2, $3, $4, $5, -$5::bigint, 0, false, '{}', 'a rehearsal', 'a rehearsal')",
        account.0,
        event,
        usage_type,
        instant(period.start),
        units
    )
    .execute(db)
    .await?;
    insert(client, now_s, period, [(account, usage_type, -units)], event).await
}

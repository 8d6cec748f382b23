//! Inserts usage directly into ClickHouse.

use billing_worker::rehearse::usage;
use clickhouse::Client;
use schema::{AccountId, Period};
use sqlx::PgPool;
use uuid::Uuid;

/// Inserts units of a period at once, one event each. They are used at its start.
pub(crate) async fn insert(
    client: &Client,
    now_s: i64,
    period: Period,
    units: impl IntoIterator<Item = (AccountId, &str, i64)>,
    corrects: Uuid,
) {
    usage::insert(client, now_s, period, units, corrects).await.unwrap();
}

/// Voids units of a period, as a correction does.
pub(crate) async fn correct(
    db: &PgPool,
    client: &Client,
    now_s: i64,
    period: Period,
    corrected: (AccountId, &str, i64),
) {
    usage::correct(db, client, now_s, period, corrected).await.unwrap();
}

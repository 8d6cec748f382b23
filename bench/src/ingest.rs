//! Rows per second from the stream into ClickHouse, verified and recorded, compared with the same rows inserted directly into a copy of
//! the table in batches of the same size. A second run has a unique idempotency key on every event and an
//! ingestor that has just started, which is the highest cost of looking for duplicates.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use futures_util::{StreamExt, TryStreamExt, stream};
use ingestor::pipeline::row::{Attempt, EventRow, Position};
use schema::{AccountId, BatchId, EventId, KeyId, LeaseId, RunId, SubscriptionId, UsageEvent, lane_record, names};
use uuid::Uuid;

use crate::{median, system::BenchSystem};

const EVENTS_A_MESSAGE: u64 = 500;
/// The default of the ingestor.
const ROWS_A_BATCH: usize = 50_000;
const WITHIN: Duration = Duration::from_secs(300);

/// Which events have an idempotency key.
#[derive(Clone, Copy)]
enum Keys {
    None,
    Each,
}

pub(crate) async fn compare(system: &mut BenchSystem, rounds: u8, rows: u64) -> Result<String> {
    let client = system.clickhouse();
    client
        .query("create table usage_events_raw as usage_events")
        .execute()
        .await
        .context("making the twin table")?;
    let (mut ingested, mut keyed, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        raw.push(insert_raw(&client, rows).await?);
        ingested.push(ingest(system, &client, rows, Keys::None).await?);
        keyed.push(ingest(system, &client, rows, Keys::Each).await?);
    }
    let (raw, ingested, keyed) = (median(raw), median(ingested), median(keyed));
    Ok(format!(
        "\nrows a second into ClickHouse, {rows} rows a round, median of {rounds}:\n\
         \x20 raw inserts, {ROWS_A_BATCH} rows each             {raw:>9.0}/s\n\
         \x20 ingestor, from the stream, verified  {ingested:>9.0}/s\n\
         \x20 ratio                                {:>9.2}\n\
         \x20 with an idempotency key each         {keyed:>9.0}/s\n\
         \x20 ratio to those without               {:>9.2}",
        ingested / raw,
        keyed / ingested
    ))
}

/// Fills the stream while the ingestor is stopped, starts it, and measures the time from its first row to its last.
async fn ingest(system: &mut BenchSystem, client: &clickhouse::Client, rows: u64, keys: Keys) -> Result<f64> {
    let stored = async || {
        client
            .query("select count() from usage_events")
            .fetch_one::<u64>()
            .await
    };
    system.stop_ingestor().await?;
    let before = stored().await?;
    publish(&system.system.endpoints.nats_url, rows, keys).await?;
    system.start_ingestor().await?;
    let (mut first, started) = (None, Instant::now());
    loop {
        let now = stored().await?;
        if now > before && first.is_none() {
            first = Some((Instant::now(), now));
        }
        if let Some((at, had)) = first
            && now >= before + rows
        {
            ensure!(now == before + rows, "{} rows too many", now - before - rows);
            ensure!(had < now, "too few rows to measure: raise --rows");
            return Ok((now - had) as f64 / at.elapsed().as_secs_f64());
        }
        ensure!(
            started.elapsed() < WITHIN,
            "{} of {rows} rows after {WITHIN:?}",
            now - before
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn publish(nats_url: &str, rows: u64, keys: Keys) -> Result<()> {
    let jetstream = jetstream::new(async_nats::connect(nats_url).await?);
    let run = RunId::new();
    let messages = (0..rows.div_ceil(EVENTS_A_MESSAGE)).map(|message| {
        let first = message * EVENTS_A_MESSAGE;
        let account = AccountId(Uuid::from_u128(u128::from(message % 64) + 1));
        let mut batch = lane_record::BatchBuilder::new(BatchId::new());
        (first..(first + EVENTS_A_MESSAGE).min(rows)).for_each(|n| {
            let event = match keys {
                Keys::None => event(n, account),
                Keys::Each => keyed(event(n, account)),
            };
            batch.push(&event.encode());
        });
        (names::lane(names::shard_of(account, 8), run), batch.finish(run))
    });
    stream::iter(messages)
        .map(|(subject, payload)| {
            let jetstream = &jetstream;
            async move { anyhow::Ok(jetstream.publish(subject, payload.into()).await?.await?) }
        })
        .buffer_unordered(32)
        .try_for_each(async |_| Ok(()))
        .await
        .context("filling the stream")
}

async fn insert_raw(client: &clickhouse::Client, rows: u64) -> Result<f64> {
    let events: Vec<UsageEvent> = (0..rows)
        .map(|n| event(n, AccountId(Uuid::from_u128(u128::from(n / EVENTS_A_MESSAGE % 64) + 1))))
        .collect();
    let started = Instant::now();
    for (batch, events) in events.chunks(ROWS_A_BATCH).enumerate() {
        let attempt = Attempt {
            sealed_at_ms: schema::clock::now_ms(),
            insert_id: Uuid::now_v7(),
        };
        let client = client.clone().with_validation(false).with_setting("async_insert", "0");
        let mut insert = client.insert::<EventRow<'_>>("usage_events_raw").await?;
        for (n, event) in events.iter().enumerate() {
            let at = Position {
                generation: 1,
                shard: 0,
                stream_seq: batch as u64 + 1,
                idx: u32::try_from(n).expect("a small batch"),
            };
            insert.write(&EventRow::new(event, RunId::NIL, at, attempt)).await?;
        }
        insert.end().await?;
    }
    Ok(rows as f64 / started.elapsed().as_secs_f64())
}

fn keyed(event: UsageEvent) -> UsageEvent {
    let key = EventId::new().to_string();
    UsageEvent {
        event_id: EventId::of_idempotency_key(event.account_id, &key),
        idempotency_key: key,
        ..event
    }
}

fn event(n: u64, account_id: AccountId) -> UsageEvent {
    UsageEvent {
        event_id: EventId::new(),
        account_id,
        key_id: KeyId(Uuid::from_u128(u128::from(n % 200) + 1)),
        subscription_id: SubscriptionId::NIL,
        period_start: schema::Period::calendar_month(schema::clock::now_s()).start,
        usage_type: "api_call".to_owned(),
        cost_units: 1,
        endpoint: format!("/api/posts/{}", n % 1_000),
        method: "GET".to_owned(),
        status: 200,
        request_id: format!("bench-{n}"),
        ip_address: std::net::Ipv4Addr::from(u32::try_from(n).expect("a small batch")).to_ipv6_mapped(),
        user_agent: format!("bench/{}", n % 50),
        time_ms: schema::clock::now_ms(),
        lease_id: LeaseId(Uuid::from_u128(u128::from(n / 1_000) + 1)),
        idempotency_key: String::new(),
        corrects: EventId::NIL,
    }
}

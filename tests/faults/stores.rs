//! Reads the contents of the stores after the system has settled.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer};
use clickhouse::Row as ClickHouseRow;
use futures_util::StreamExt;
use schema::{AccountId, EventId, KeyId, LaneRecord, LeaseId, Manifest, lane_record::Kind, names};
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    cast::{Cast, USAGE_TYPES},
    evidence::{Lease, Pool, Position, ReportedLine, Row, Stream},
    system::{Reach, SHARDS},
};

#[derive(ClickHouseRow, Deserialize)]
struct StoredRow {
    request_id: String,
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    account_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    key_id: Uuid,
    usage_type: String,
    cost_units: i64,
    start: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    lease_id: Uuid,
    shard: u16,
    stream_seq: u64,
    idx: u32,
}

#[derive(ClickHouseRow, Deserialize)]
struct Duplicate {
    shard: u16,
    stream_seq: u64,
    idx: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    lease_id: Uuid,
    cost_units: i64,
}

pub async fn rows(system: &Reach) -> Result<Vec<Row>> {
    let query = "select request_id, event_id, account_id, key_id, toString(usage_type) as usage_type, cost_units, \
                 toInt64(period_start) as start, lease_id, shard, stream_seq, idx from usage_events";
    let stored: Vec<StoredRow> = system
        .clickhouse
        .query(query)
        .fetch_all()
        .await
        .context("reading the events")?;
    let row = |row: StoredRow| Row {
        request: row.request_id.parse().ok(),
        event: EventId(row.event_id),
        account: AccountId(row.account_id),
        key: KeyId(row.key_id),
        usage_type: row.usage_type,
        units: row.cost_units,
        period_start: row.start,
        lease: LeaseId(row.lease_id),
        position: Position {
            shard: row.shard,
            seq: row.stream_seq,
            idx: row.idx,
        },
    };
    Ok(stored.into_iter().map(row).collect())
}

pub async fn pools(system: &Reach) -> Result<Vec<Pool>> {
    let rows: Vec<(Uuid, String, OffsetDateTime, i64)> =
        sqlx::query_as("select account_id, usage_type, period_start, granted_units from quota_pool")
            .fetch_all(&system.database)
            .await
            .context("reading the pools")?;
    let pool = |(account, usage_type, start, granted): (Uuid, String, OffsetDateTime, i64)| Pool {
        account: AccountId(account),
        usage_type,
        period_start: start.unix_timestamp(),
        granted,
    };
    Ok(rows.into_iter().map(pool).collect())
}

pub async fn leases(system: &Reach) -> Result<Vec<Lease>> {
    let rows: Vec<(Uuid, String, Uuid, String, OffsetDateTime, i64, bool)> = sqlx::query_as(
        "select l.id, r.gateway, l.account_id, l.usage_type, l.period_start, l.units - l.returned_units, l.state = 'live'
         from quota_leases l join gateway_runs r on r.id = l.run_id",
    )
    .fetch_all(&system.database)
    .await
    .context("reading the leases")?;
    let lease = |(id, gateway, account, usage_type, start, units, is_live): (_, _, _, _, OffsetDateTime, _, _)| Lease {
        id: LeaseId(id),
        gateway,
        account: AccountId(account),
        usage_type,
        period_start: start.unix_timestamp(),
        units,
        is_live,
    };
    Ok(rows.into_iter().map(lease).collect())
}

/// Duplicates that a lease paid for, and how many of them are recorded as returned to the pools.
pub async fn duplicates_returned(system: &Reach) -> Result<(u64, u64)> {
    let query = "select uniqExact((generation, shard, stream_seq, idx)) from usage_duplicates \
                 where cost_units > 0 and lease_id != toUUID('00000000-0000-0000-0000-000000000000')";
    let paid: u64 = system
        .clickhouse
        .query(query)
        .fetch_one()
        .await
        .context("counting duplicates")?;
    let returned: i64 = sqlx::query_scalar("select count(*) from duplicate_returns")
        .fetch_one(&system.database)
        .await
        .context("counting duplicates")?;
    Ok((paid, returned.cast_unsigned()))
}

/// For each shard: its last record, how far it is stored, and whether a range is pending.
pub async fn shards(system: &Reach) -> Result<Vec<(u64, u64, bool)>> {
    let context = jetstream::new(async_nats::connect(&system.nats_url).await?);
    let stream = context.get_stream(names::USAGE_STREAM).await?;
    let bucket = context.get_key_value(names::MANIFEST_BUCKET).await?;
    let mut shards = Vec::new();
    for shard in 0..SHARDS {
        let manifest = match bucket.get(names::manifest_key(shard)).await? {
            Some(bytes) => Manifest::decode(&bytes)?,
            None => Manifest::default(),
        };
        let last = match stream.get_last_raw_message_by_subject(&names::shard_lanes(shard)).await {
            Ok(last) => last.sequence,
            Err(error) if error.kind() == jetstream::stream::LastRawMessageErrorKind::NoMessageFound => 0,
            Err(error) => return Err(error).context("reading a shard's last record"),
        };
        shards.push((last, manifest.done_through, manifest.pending.is_some()));
    }
    Ok(shards)
}

/// Everything that the stream still holds.
pub async fn stream(system: &Reach) -> Result<Stream> {
    let context = jetstream::new(async_nats::connect(&system.nats_url).await?);
    let stream = context.get_stream(names::USAGE_STREAM).await?;
    let last = stream.cached_info().state.last_sequence;
    let (mut events, mut lanes, mut whole_from) = (BTreeMap::new(), HashSet::new(), HashMap::new());
    if stream.cached_info().state.messages > 0 {
        let config = consumer::pull::OrderedConfig {
            deliver_policy: consumer::DeliverPolicy::All,
            ..Default::default()
        };
        let mut messages = stream.create_consumer(config).await?.messages().await?;
        while let Some(message) = messages.next().await {
            let message = message.context("reading the stream")?;
            let info = message
                .info()
                .map_err(|error| anyhow::anyhow!("a message without a position: {error}"))?;
            let (seq, pending) = (info.stream_sequence, info.pending);
            let shard = message.subject.split('.').nth(2).and_then(|shard| shard.parse().ok());
            let shard: u16 = shard.context("a lane's subject names its shard")?;
            if !lanes.insert(message.subject.to_string()) {
                whole_from.entry(shard).or_insert(seq);
            }
            if let Kind::Batch { events: batch, .. } = LaneRecord::decode(&message.payload)?.kind {
                let at = |(idx, event): (usize, schema::UsageEvent)| {
                    let idx = u32::try_from(idx).unwrap_or(u32::MAX);
                    (Position { shard, seq, idx }, event.event_id)
                };
                events.extend(batch.into_iter().enumerate().map(at));
            }
            if pending == 0 || seq >= last {
                break;
            }
        }
    }
    let query = "select distinct shard, stream_seq, idx, lease_id, cost_units from usage_duplicates";
    let dropped: Vec<Duplicate> = system
        .clickhouse
        .query(query)
        .fetch_all()
        .await
        .context("reading duplicates")?;
    let dropped = dropped.into_iter().map(|row| {
        let position = Position {
            shard: row.shard,
            seq: row.stream_seq,
            idx: row.idx,
        };
        (position, (LeaseId(row.lease_id), row.cost_units))
    });
    Ok(Stream {
        events,
        whole_from,
        dropped: dropped.collect(),
        shards: shards(system).await?,
    })
}

/// For every billed period: the reported units and the counted units.
pub async fn reported(system: &Reach, cast: &Cast, rows: &[Row]) -> Result<Vec<ReportedLine>> {
    let periods: Vec<(Uuid, OffsetDateTime, OffsetDateTime)> =
        sqlx::query_as("select account_id, period_start, period_end from billing_periods")
            .fetch_all(&system.database)
            .await
            .context("reading the billing periods")?;
    let control = system.stripe.control();
    let mut reported = Vec::new();
    for (account, start, end) in periods {
        let account = AccountId(account);
        let member = cast.members.iter().find(|member| member.id == account);
        let Some(customer) = member.and_then(|member| member.customer.as_deref()) else {
            continue;
        };
        let (start, end) = (start.unix_timestamp(), end.unix_timestamp());
        for usage_type in USAGE_TYPES {
            let is_of =
                |row: &&Row| row.account == account && row.usage_type == usage_type && row.period_start == start;
            let mut seen = HashSet::new();
            let counted = rows
                .iter()
                .filter(is_of)
                .filter(|row| seen.insert(row.position))
                .map(|row| row.units)
                .sum();
            reported.push(ReportedLine {
                name: format!("{account} {usage_type} {start}"),
                stripe: control.meter_total(customer, &format!("trendit_{usage_type}"), start, end),
                counted,
            });
        }
    }
    Ok(reported)
}

//! The rows of a range: one in `usage_events` for each event, one in `usage_duplicates` for each dropped event. The columns are
//! in the order of `schema/clickhouse/01_usage_events.sql` (which computes `bill_day`) and `07_usage_duplicates.sql`.

use std::net::Ipv6Addr;

use clickhouse::Row;
use schema::{RunId, UsageEvent};
use serde::Serialize;
use uuid::Uuid;

use super::{range::Range, record::Record};

pub const TABLE: &str = "usage_events";
pub const DUPLICATES: &str = "usage_duplicates";

#[derive(Row, Serialize, Debug)]
pub struct EventRow<'a> {
    pub generation: u32,
    pub shard: u16,
    pub stream_seq: u64,
    pub idx: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    pub event_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub account_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub key_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub subscription_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub lease_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub run_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    pub corrects: Uuid,
    /// Seconds since the Unix epoch.
    pub period_start: u32,
    pub usage_type: &'a str,
    pub cost_units: i64,
    pub endpoint: &'a str,
    pub method: &'a str,
    pub status: u16,
    pub request_id: &'a str,
    pub ip_address: Ipv6Addr,
    pub user_agent: &'a str,
    /// Milliseconds since the Unix epoch, as `ingested_at`.
    pub ts: i64,
    pub idempotency_key: &'a str,
    pub ingested_at: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    pub insert_id: Uuid,
}

/// The columns that are kept of a dropped event.
#[derive(Row, Serialize, Debug)]
pub struct DuplicateRow<'a> {
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
    #[serde(with = "clickhouse::serde::uuid")]
    pub run_id: Uuid,
    /// Seconds since the Unix epoch.
    pub period_start: u32,
    pub usage_type: &'a str,
    pub cost_units: i64,
    pub request_id: &'a str,
    pub idempotency_key: &'a str,
    /// Milliseconds since the Unix epoch, as `ingested_at`.
    pub ts: i64,
    pub ingested_at: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    pub insert_id: Uuid,
}

/// The position of an event in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub generation: u32,
    pub shard: u16,
    pub stream_seq: u64,
    pub idx: u32,
}

/// One attempt to insert one range.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// When the range was sealed, never the current time: in another partition, the same deduplication token would store the
    /// rows again.
    pub sealed_at_ms: i64,
    pub insert_id: Uuid,
}

impl Position {
    fn of(generation: u32, shard: u16, record: &Record, idx: u32) -> Self {
        Self {
            generation,
            shard,
            stream_seq: record.seq,
            idx,
        }
    }
}

impl<'a> EventRow<'a> {
    /// The event has passed [`check`].
    pub fn new(event: &'a UsageEvent, run: RunId, at: Position, attempt: Attempt) -> Self {
        Self {
            generation: at.generation,
            shard: at.shard,
            stream_seq: at.stream_seq,
            idx: at.idx,
            event_id: event.event_id.0,
            account_id: event.account_id.0,
            key_id: event.key_id.0,
            subscription_id: event.subscription_id.0,
            lease_id: event.lease_id.0,
            run_id: run.0,
            corrects: event.corrects.0,
            period_start: u32::try_from(event.period_start).unwrap_or_default(),
            usage_type: &event.usage_type,
            cost_units: event.cost_units,
            endpoint: &event.endpoint,
            method: &event.method,
            status: event.status,
            request_id: &event.request_id,
            ip_address: event.ip_address,
            user_agent: &event.user_agent,
            ts: event.time_ms,
            idempotency_key: &event.idempotency_key,
            ingested_at: attempt.sealed_at_ms,
            insert_id: attempt.insert_id,
        }
    }
}

impl<'a> DuplicateRow<'a> {
    /// The event has passed [`check`].
    pub fn new(event: &'a UsageEvent, run: RunId, at: Position, attempt: Attempt) -> Self {
        Self {
            generation: at.generation,
            shard: at.shard,
            stream_seq: at.stream_seq,
            idx: at.idx,
            event_id: event.event_id.0,
            account_id: event.account_id.0,
            lease_id: event.lease_id.0,
            run_id: run.0,
            period_start: u32::try_from(event.period_start).unwrap_or_default(),
            usage_type: &event.usage_type,
            cost_units: event.cost_units,
            request_id: &event.request_id,
            idempotency_key: &event.idempotency_key,
            ts: event.time_ms,
            ingested_at: attempt.sealed_at_ms,
            insert_id: attempt.insert_id,
        }
    }
}

/// The rows of a range's events, for one attempt.
pub fn event_rows(range: &Range, generation: u32, shard: u16, attempt: Attempt) -> impl Iterator<Item = EventRow<'_>> {
    range.events().map(move |(record, idx, event)| {
        let at = Position::of(generation, shard, record, idx);
        EventRow::new(event, record.run_id, at, attempt)
    })
}

/// The rows of a range's dropped events, for one attempt.
pub fn duplicate_rows(
    range: &Range,
    generation: u32,
    shard: u16,
    attempt: Attempt,
) -> impl Iterator<Item = DuplicateRow<'_>> {
    range.duplicates().map(move |(record, idx, event)| {
        let at = Position::of(generation, shard, record, idx);
        DuplicateRow::new(event, record.run_id, at, attempt)
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use schema::{AccountId, EventId, KeyId, LeaseId, SubscriptionId};

    pub fn event(n: u128) -> UsageEvent {
        UsageEvent {
            event_id: EventId(Uuid::from_u128(n + 1)),
            account_id: AccountId(Uuid::from_u128(2)),
            key_id: KeyId(Uuid::from_u128(3)),
            subscription_id: SubscriptionId::NIL,
            period_start: 1_793_491_200,
            usage_type: "api_call".into(),
            cost_units: 1,
            endpoint: "/api/posts/search".into(),
            method: "GET".into(),
            status: 200,
            request_id: "r".into(),
            ip_address: "::1".parse().unwrap(),
            user_agent: "curl".into(),
            time_ms: 1_795_420_800_123,
            lease_id: LeaseId::NIL,
            idempotency_key: String::new(),
            corrects: EventId::NIL,
        }
    }

    #[test]
    fn each_row_carries_its_position() {
        use crate::pipeline::range::{self, Sealed, tests::record};
        let attempt = Attempt {
            sealed_at_ms: 5,
            insert_id: Uuid::nil(),
        };
        let Some(Sealed::Range(range)) = range::seal(vec![record(1, 3), record(2, 2)], vec![(1, 1), (2, 0)], 5) else {
            panic!("no range")
        };
        let rows: Vec<_> = event_rows(&range, 1, 0, attempt)
            .map(|row| (row.stream_seq, row.idx))
            .collect();
        assert_eq!(rows, [(1, 0), (1, 2), (2, 1)]);
        let dropped = duplicate_rows(&range, 1, 0, attempt).map(|row| (row.stream_seq, row.idx));
        assert_eq!(dropped.collect::<Vec<_>>(), [(1, 1), (2, 0)]);
    }

    #[test]
    fn columns_are_those_of_the_tables() {
        let of_table = |ddl: &'static str| -> Vec<&str> {
            ddl.lines()
                .filter(|line| line.contains(" comment '") && line.starts_with("    "))
                .filter_map(|line| line.split_whitespace().next())
                .collect()
        };
        let columns = of_table(include_str!("../../../schema/clickhouse/01_usage_events.sql"));
        let sent = <EventRow as Row>::COLUMN_NAMES;
        assert_eq!(&columns[..sent.len()], sent);
        let columns = of_table(include_str!("../../../schema/clickhouse/07_usage_duplicates.sql"));
        assert_eq!(columns, <DuplicateRow as Row>::COLUMN_NAMES);
    }
}

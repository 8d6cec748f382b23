//! Finds the events of audited records that an earlier generation of the stream stored: they are not missing.
//!
//! A raised generation starts with records that are already stored. Their rows keep the generation that stored them.

use std::collections::HashSet;

use anyhow::Result;
use clickhouse::Row;
use protocol::range::EventPosition;
use schema::{EventId, UsageEvent};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    pipeline::verify::{Span, StoredEvent, Verifier, within},
    upkeep::reread::Reread,
};

/// Ids in one statement: with their accounts, and for two tables, at most 160 kB of text, of the 256 kB that ClickHouse parses.
const IDS: usize = 1_000;

/// Names an event for all time: retries of one `Idempotency-Key` share the id, and differ in the time.
type Name = (EventId, i64);

#[derive(Row, Deserialize)]
struct Stored {
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    time_ms: i64,
}

/// The positions of `records`, in order, that this generation does not hold, but an earlier one does: at the same position, or
/// at another one, if a writer published the event again after the stream was restored. `here`: what this generation holds, in
/// order.
pub async fn positions<'a>(
    verifier: &Verifier,
    span: Span,
    records: impl Iterator<Item = &'a Reread>,
    here: &[StoredEvent],
) -> Result<Vec<EventPosition>> {
    if span.generation <= 1 {
        return Ok(Vec::new());
    }
    let earlier = verifier.earlier(span).await?;
    let (mut positions, mut unknown) = (Vec::new(), Vec::new());
    for record in records {
        for (idx, event) in record.content.indexed() {
            let row = StoredEvent {
                stream_seq: record.seq,
                idx,
                event_id: event.event_id.0,
            };
            let position = (row.stream_seq, idx);
            if here.binary_search(&row).is_ok() {
                continue;
            }
            if earlier.binary_search(&row).is_ok() {
                positions.push(position);
            } else {
                unknown.push((position, event));
            }
        }
    }
    // By account, because ClickHouse stores rows by account.
    unknown.sort_unstable_by_key(|(_, event)| (event.account_id, event.time_ms));
    for events in unknown.chunks(IDS) {
        let stored = stored_anywhere(verifier, span.generation, events).await?;
        let known = events.iter().filter(|(_, event)| stored.contains(&name(event)));
        positions.extend(known.map(|(position, _)| *position));
    }
    positions.sort_unstable();
    Ok(positions)
}

/// The events that an earlier generation holds, at any position.
async fn stored_anywhere(
    verifier: &Verifier,
    generation: u32,
    events: &[(EventPosition, &UsageEvent)],
) -> Result<HashSet<Name>> {
    let of = |table: &str| {
        format!(
            "select event_id, toUnixTimestamp64Milli(ts) as time_ms from {table} \
             where account_id in ? and event_id in ? and generation < ? \
                 and ts >= fromUnixTimestamp64Milli(toInt64(?)) and ts <= fromUnixTimestamp64Milli(toInt64(?))"
        )
    };
    let sql = format!("{} union all {}", of("usage_events"), of("usage_duplicates"));
    let accounts: HashSet<String> = events.iter().map(|(_, event)| event.account_id.to_string()).collect();
    let accounts: Vec<String> = accounts.into_iter().collect();
    let ids: Vec<String> = events.iter().map(|(_, event)| event.event_id.to_string()).collect();
    let times = || events.iter().map(|(_, event)| event.time_ms);
    let (oldest, newest) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    let mut query = verifier.client().query(&sql);
    for _ in 0..2 {
        query = query
            .bind(&accounts)
            .bind(&ids)
            .bind(generation)
            .bind(oldest)
            .bind(newest);
    }
    let rows = within("looking for events in earlier generations", query.fetch_all::<Stored>()).await?;
    Ok(rows
        .into_iter()
        .map(|row| (EventId(row.event_id), row.time_ms))
        .collect())
}

fn name(event: &UsageEvent) -> Name {
    (event.event_id, event.time_ms)
}

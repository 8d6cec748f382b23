//! Asks ClickHouse which event ids were stored before a range.

use std::collections::HashSet;

use anyhow::Result;
use clickhouse::Row;
use protocol::duplicates::{Question, SealedAt};
use schema::EventId;
use serde::Deserialize;
use uuid::Uuid;

use super::verify::{Verifier, within};

/// Ids in one statement: with their accounts at most 160 kB of text, of the 256 kB that ClickHouse parses.
const IDS: usize = 2_000;

/// The longest time from an event's admission to its sealing: it covers spools, outages and wrong gateway clocks. It only keeps
/// ClickHouse from reading all rows of an account. (A correction has the time of the event that it corrects, which may be
/// older: its own protocol publishes it once.)
const ADMITTED_BEFORE_MS: i64 = 7 * 24 * 3_600 * 1_000;

#[derive(Row, Deserialize)]
struct Stored {
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    sealed_ms: i64,
}

/// Returns the ids that have a row before the range, in this generation of the stream or an earlier one, and when each was
/// sealed.
pub async fn ask(verifier: &Verifier, generation: u32, shard: u16, question: &Question) -> Result<SealedAt> {
    // Rows of this shard and generation from `first` on are not before the range. They can be the range itself, if it was
    // stored and its manifest was then lost.
    let sql = "select event_id, toUnixTimestamp64Milli(max(ingested_at)) as sealed_ms from usage_events
               where account_id in ? and event_id in ? and ts >= fromUnixTimestamp64Milli(toInt64(?))
                   and ingested_at >= fromUnixTimestamp64Milli(toInt64(?))
                   and not (generation = ? and shard = ? and stream_seq >= ?)
               group by event_id";
    let admitted_since = question.since_ms - ADMITTED_BEFORE_MS;
    let mut stored = SealedAt::new();
    for ids in question.ids.chunks(IDS) {
        let accounts: HashSet<String> = ids.iter().map(|(account, _)| account.to_string()).collect();
        let accounts: Vec<String> = accounts.into_iter().collect();
        let events: Vec<String> = ids.iter().map(|(_, event)| event.to_string()).collect();
        let rows = verifier
            .client()
            .query(sql)
            .bind(accounts)
            .bind(events)
            .bind(admitted_since)
            .bind(question.since_ms)
            .bind(generation)
            .bind(shard)
            .bind(question.first)
            .fetch_all::<Stored>();
        let rows = within("asking which events were stored before", rows).await?;
        stored.extend(rows.into_iter().map(|row| (EventId(row.event_id), row.sealed_ms)));
    }
    Ok(stored)
}

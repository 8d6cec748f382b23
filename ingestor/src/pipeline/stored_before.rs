//! Asks ClickHouse which event ids were stored before a batch.

use std::{collections::HashSet, time::Duration};

use anyhow::Result;
use clickhouse::Row;
use schema::EventId;
use serde::Deserialize;
use uuid::Uuid;

use crate::pipeline::{
    duplicates::{Question, SealedAt},
    verify::{Verifier, within},
};

/// Ids in one statement: with their accounts 160 kB of text at the most, of the 256 that ClickHouse parses.
const IDS: usize = 2_000;

/// An event was admitted at the most so long before it was sealed: what a spool and an outage may take, and a gateway's clock
/// be wrong. It only keeps ClickHouse from reading all that an account ever had. (A correction has the time of what it corrects,
/// which may be older: it is published once by a protocol of its own.)
const ADMITTED_BEFORE: Duration = Duration::from_secs(7 * 24 * 3_600);

#[derive(Row, Deserialize)]
struct Stored {
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    sealed_ms: i64,
}

/// Those of the ids that have a row before the batch, in this generation of the stream or in an earlier one.
pub async fn ask(verifier: &Verifier, generation: u32, shard: u16, question: &Question) -> Result<SealedAt> {
    // Of a shard, as of a range, whatever is behind `first` in this generation was not before. What it might find there is
    // the batch itself: stored, and then forgotten with its manifest.
    let sql = "select event_id, toUnixTimestamp64Milli(max(ingested_at)) as sealed_ms from usage_events
               where account_id in ? and event_id in ? and ts >= fromUnixTimestamp64Milli(toInt64(?))
                   and ingested_at >= fromUnixTimestamp64Milli(toInt64(?))
                   and not (generation = ? and shard = ? and stream_seq >= ?)
               group by event_id";
    let admitted_since = question.since_ms - ADMITTED_BEFORE.as_millis() as i64;
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

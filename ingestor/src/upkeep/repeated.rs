//! Counts rows that repeat an event: several positions have the same account, time and event id. No audit creates or removes
//! them. They appear if two generations store one event, so each stored range is exact by itself.

use std::{ops::RangeInclusive, time::Duration};

use anyhow::Result;

use crate::pipeline::verify::{Verifier, within_limit};

/// It may read all rows.
const LIMIT: Duration = Duration::from_secs(600);

const OF: &str = "usage_events where shard between ? and ? and ingested_at >= fromUnixTimestamp64Milli(toInt64(?))";

/// The rows of these shards, sealed at `since_ms` or later, without which each event would have one row.
pub async fn rows(verifier: &Verifier, shards: RangeInclusive<u16>, since_ms: i64) -> Result<u64> {
    let ask = async |sql: String| {
        let query = verifier.client().query(&sql);
        let query = query.bind(*shards.start()).bind(*shards.end()).bind(since_ms);
        within_limit(LIMIT, "looking for repeated events", query.fetch_one::<u64>()).await
    };
    // One generation stores each record once. So this costs little unless a generation was raised since.
    if ask(format!("select uniqExact(generation) from {OF}")).await? <= 1 {
        return Ok(0);
    }
    // In the order of the table, so that it needs little memory.
    ask(format!(
        "select toUInt64(sum(positions - 1)) from (select uniqExact(generation, shard, stream_seq, idx) as positions from {OF} \
         group by account_id, ts, event_id having positions > 1) settings optimize_aggregation_in_order = 1"
    ))
    .await
}

//! Finds out what became of rows whose run is over. See [`super`] for why the answer is final.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use async_nats::{
    Client,
    jetstream::{self, kv::Store},
};
use clickhouse::Client as ClickHouse;
use lane::{fence::fence, subject::LaneSubject};
use schema::{AccountId, EventId, Manifest, RunId, names};
use sqlx::PgPool;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{ledger, originals};

/// Rows that one step looks at.
const ROWS_MAX: i64 = 1_000;
/// For one question to NATS.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one step found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Correcting events that were there.
    pub stored: usize,
    /// Those that are not and never will be; they wait again.
    pub not_stored: usize,
    /// Those of which nothing can be told yet: the ingestor has not come far enough, or someone is away.
    pub open: usize,
    /// Those that were left open so long ago that nothing can be told any more: somebody has to look.
    pub too_old: usize,
    /// Accounts that got units back.
    pub accounts: Vec<AccountId>,
}

/// A lane of a run that is over, and the rows that it was given, by account.
type Lanes = BTreeMap<(RunId, u16), BTreeMap<AccountId, Vec<EventId>>>;

/// Looks after rows of runs that are over: ended by others, given up, closed, or silent for a minute by the database's
/// clock. Should such a run live after all, it loses its lane and begins another.
pub async fn step(db: &PgPool, clickhouse: &ClickHouse, client: &Client) -> Result<Resolved> {
    let (lanes, too_old) = left_open(db).await?;
    let mut resolved = Resolved {
        too_old,
        ..Resolved::default()
    };
    if lanes.is_empty() {
        return Ok(resolved);
    }
    let stream = lane::stream::look(client).await?.stream;
    let context = jetstream::new(client.clone());
    let manifests = timeout(PATIENCE, context.get_key_value(names::MANIFEST_BUCKET)).await??;
    for ((run, shard), accounts) in lanes {
        let lane = LaneSubject::new(client, &stream, shard, run);
        let rows = accounts.values().map(Vec::len).sum::<usize>();
        // A lane of which nothing can be told holds up no other.
        match is_final(&lane, client, &manifests, shard).await {
            Ok(true) => {}
            Ok(false) => {
                resolved.open += rows;
                continue;
            }
            Err(failure) => {
                warn!(run.id = %run, shard, "cannot tell yet what a lane holds: {failure:#}");
                resolved.open += rows;
                continue;
            }
        }
        for (account, events) in accounts {
            let there = originals::stored(clickhouse, account, &events).await?;
            let absent: Vec<_> = events.into_iter().filter(|event| !there.contains(event)).collect();
            resolved.accounts.extend(ledger::stored(db, &there).await?);
            ledger::not_stored(db, run, &absent).await?;
            resolved.stored += there.len();
            resolved.not_stored += absent.len();
        }
        info!(run.id = %run, shard, rows, "resolved corrections that a run had left open");
    }
    Ok(resolved)
}

/// Ends the lane; whether ClickHouse has all that it holds, for ever.
async fn is_final(lane: &LaneSubject, client: &Client, manifests: &Store, shard: u16) -> Result<bool> {
    // First: what the run stored after a look at ClickHouse would be missed, and sent again.
    let end = fence(lane, PATIENCE).await?;
    let manifest = timeout(PATIENCE, manifests.get(names::manifest_key(shard))).await?;
    let Some(manifest) = manifest.context("reading a manifest")? else {
        return Ok(false);
    };
    let manifest = Manifest::decode(&manifest).context("reading a manifest")?;
    let stream = lane::stream::look(client).await.context("looking at the stream")?;
    Ok(covers(&manifest, end, stream.generation, stream.last_sequence))
}

/// Whether the shard is stored up to the sequence `end` of the stream, which is in `generation` and has got to
/// `last_sequence`. A manifest that speaks of another stream (one before it was restored or reset) does not say so, however
/// far it got.
fn covers(manifest: &Manifest, end: u64, generation: u32, last_sequence: u64) -> bool {
    let is_of_stream = manifest.generation == generation && manifest.done_through <= last_sequence;
    is_of_stream && end <= manifest.done_through
}

/// Rows whose run is over, and how many of them are too old.
async fn left_open(db: &PgPool) -> Result<(Lanes, usize)> {
    let silent = sqlx::query!(
        "update gateway_runs set state = 'fencing'
         where state = 'live' and heartbeat_at < now() - interval '60 seconds'
           and id in (select run_id from corrections where published_at is null)"
    );
    silent.execute(db).await.context("looking for silent runs")?;
    let rows = sqlx::query!(
        r#"select c.id, c.account_id, c.run_id as "run_id!", r.shards,
                  c.handed_at < now() - interval '20 days' as "is_old!"
           from corrections c join gateway_runs r on r.id = c.run_id
           where c.published_at is null and r.state not in ('live', 'spooling')
           order by c.handed_at < now() - interval '20 days', c.created_at, c.id limit $1"#,
        ROWS_MAX
    )
    .fetch_all(db)
    .await
    .context("reading corrections that were left open")?;
    let (mut lanes, mut too_old) = (Lanes::new(), 0);
    for row in rows {
        // The rows of the running period and the one before are kept, 28 days at least, which count from five days before a
        // row was stored at the earliest: after 23 days its absence would prove nothing.
        if row.is_old {
            too_old += 1;
            continue;
        }
        let account = AccountId(row.account_id);
        let shard = names::shard_of(account, u16::try_from(row.shards).unwrap_or(1));
        let lane = lanes.entry((RunId(row.run_id), shard)).or_default();
        lane.entry(account).or_default().push(EventId(row.id));
    }
    Ok((lanes, too_old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_manifest_of_this_very_stream_says_how_far_it_is_stored() {
        let manifest = |generation, done_through| Manifest {
            generation,
            done_through,
            ..Manifest::default()
        };
        for (manifest, end, covered) in [
            (manifest(2, 70), 70, true),
            (manifest(2, 70), 71, false),
            (manifest(1, 70), 70, false),
            (manifest(3, 70), 70, false),
            // Restored to an older state: it is behind its manifest, and nobody has raised the generation.
            (manifest(2, 101), 70, false),
        ] {
            assert_eq!(covers(&manifest, end, 2, 100), covered, "{manifest:?} {end}");
        }
    }
}

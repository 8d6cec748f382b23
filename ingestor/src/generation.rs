//! Positions are unique within one generation of the stream. A stream that was restored or reset uses some positions again, so
//! ingest stops until an operator raises the generation. Raising finds the records that are already stored by their content. The
//! ingestors store everything after them under the new generation.
//!
//! The comparison needs rows that do not change. So raising first takes the shards from all ingestors, and waits until their
//! inserts have ended.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use protocol::audit::bill_day;
use schema::{Manifest, UsageEvent, names};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    manifests::{Held, Manifests},
    pipeline::{
        content::Content,
        continuity::matches,
        fence::{Fence, TRUSTED_FOR},
        reader::Reader,
        verify::{Span, Verifier},
    },
    stop::Stop,
    upkeep::{audit::Audit, reread},
};

/// Raises the generation, and returns the new one. Can be repeated if it was interrupted.
pub async fn raise(audit: &Audit) -> Result<u32> {
    let Audit {
        stream,
        manifests,
        verifier,
        ..
    } = audit;
    let state = stream.state().await?;
    // A restored stream may have forgotten a generation that has rows.
    let mut highest = state.generation.max(verifier.highest_generation().await?);
    let mut inserting = BTreeSet::new();
    for shard in 0..stream.shards {
        if let (Some(manifest), _) = manifests.read(shard).await? {
            highest = highest.max(manifest.generation);
            inserting.insert((manifest.generation, shard));
        }
    }
    let generation = highest + 1;
    // No ingestor works while manifests and stream differ. Until all records are compared, nothing counts as stored.
    for shard in 0..stream.shards {
        begin_at(manifests, shard, generation, 0).await?;
    }
    inserts_end(verifier, &inserting).await?;
    let last = stream.state().await?.last_seq;
    for shard in 0..stream.shards {
        let stored = last_stored(
            audit.reader(shard, state.generation, 0),
            verifier,
            shard,
            generation,
            last,
        )
        .await
        .with_context(|| format!("comparing shard {shard} with its rows"))?;
        let held = begin_at(manifests, shard, generation, stored).await?;
        // Rows of these records may be lost, and a range of the old generation may be unfinished.
        let mut fence = Fence::new(manifests, shard, held.revision, held.at);
        let reader = audit.reader(shard, state.generation, 0);
        let audited = audit
            .records(reader, generation, shard, stored, Some(&mut fence))
            .await
            .with_context(|| format!("auditing shard {shard}"))?;
        if audited.left > 0 {
            bail!(
                "{} rows of shard {shard} are missing and could not be stored",
                audited.left
            );
        }
        info!(
            shard,
            generation,
            done_through = stored,
            missing = audited.missing,
            "the shard continues after its stored records"
        );
    }
    // Last, because no ingestor works while manifests and stream differ.
    stream.set_generation(generation).await?;
    Ok(generation)
}

/// Waits until no ingestor inserts into these generations and shards.
async fn inserts_end(verifier: &Verifier, inserting: &BTreeSet<(u32, u16)>) -> Result<()> {
    // An ingestor that read its manifest just before may still start an insert.
    sleep(TRUSTED_FOR).await;
    for (generation, shard) in inserting {
        let tokens = format!("{}/{generation}/{shard}/", names::USAGE_STREAM);
        verifier.inserts_end(&tokens).await.context("run the command again")?;
    }
    Ok(())
}

/// The last record of the stream that an earlier generation stored. A restored stream starts with the records it had when it was
/// saved. A shard is stored in order, so the records before the last stored one were stored, too.
async fn last_stored(
    mut reader: Reader,
    verifier: &Verifier,
    shard: u16,
    generation: u32,
    last: u64,
) -> Result<u64, Stop> {
    let (mut through, mut is_through, mut newer) = (0, true, None);
    let open_from = verifier.open_from().await?;
    loop {
        let chunk = reread::next(&mut reader, last).await?;
        let (Some(first), Some(end)) = (chunk.first(), chunk.last()) else {
            break;
        };
        let span = Span {
            generation,
            shard,
            first: first.seq,
            last: end.seq,
        };
        let stored = verifier.earlier(span).await?;
        for record in &chunk {
            match &record.content {
                // Retention may have deleted the rows of a closed day.
                Content::Events(_, events)
                    if matches(record.seq, events, &stored) || is_closed(record.stored_ms, events, open_from) =>
                {
                    (through, is_through, newer) = (record.seq, true, None);
                }
                Content::Events(_, events) if !events.is_empty() => is_through = false,
                // A newer ingestor may have stored it, and only a newer one can compare it.
                Content::Newer(why) if is_through => newer = Some(why.clone()),
                Content::Events(..) | Content::Dead(_) | Content::Newer(_) => {}
            }
        }
    }
    match newer {
        Some(why) => Err(Stop::Alarm(why)),
        None => Ok(through),
    }
}

/// Whether the sums of all these events are closed.
fn is_closed(stored_ms: i64, events: &[UsageEvent], open_from: i64) -> bool {
    let mut days = events.iter().map(|event| bill_day(event.time_ms, stored_ms));
    !events.is_empty() && days.all(|day| day < open_from)
}

async fn begin_at(manifests: &Manifests, shard: u16, generation: u32, done_through: u64) -> Result<Held> {
    let begin = |before: Option<Manifest>| {
        let before = before.unwrap_or_default();
        if let Some(pending) = before.pending {
            warn!(
                shard,
                first = pending.first,
                last = pending.last,
                "dropping the unfinished range of the old generation"
            );
        }
        Some(Manifest {
            generation,
            done_through,
            lost: before.lost,
            ..Manifest::default()
        })
    };
    let held = manifests.change(shard, begin).await?;
    held.context("writing a manifest")
}

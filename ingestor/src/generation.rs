//! Positions are unique within one generation of the stream. A stream that was restored or reset uses some positions again, so
//! ingest stops until an operator raises the generation. Raising finds the records that are already stored by their content, and
//! stores everything after them under the new generation.

use anyhow::{Context, Result, bail};
use async_nats::jetstream::stream::RawMessageErrorKind;
use schema::{Manifest, UsageEvent, names};
use tracing::{info, warn};

use crate::{
    ingest::Ingest,
    manifests::{Manifests, WriteError},
    metrics::Metrics,
    pipeline::{
        content::Content,
        reader::Reader,
        verify::{Span, StoredEvent, Verifier},
    },
    stop::Stop,
    stream::UsageStream,
    upkeep::reread,
};

/// How often a manifest is read again because an ingestor still writes it.
const WRITES_MAX: u32 = 10;

/// Checks that the last stored record of the shard is still the record that was stored. A stream that was reset may have grown
/// past that sequence since: it is not behind, but it is another stream.
pub async fn check_continuity(ingest: &Ingest, shard: u16, manifest: &Manifest) -> Result<(), Stop> {
    let seq = manifest.done_through;
    if seq == 0 {
        return Ok(());
    }
    let message = match ingest.stream.handle().await?.get_raw_message(seq).await {
        Ok(message) => message,
        // The record was trimmed.
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(()),
        Err(error) => {
            return Err(anyhow::Error::from(error)
                .context("reading the last stored record")
                .into());
        }
    };
    let Content::Events(_, events) = Content::of(&message.payload) else {
        return Ok(());
    };
    let span = Span {
        generation: manifest.generation,
        shard,
        first: seq,
        last: seq,
    };
    let stored = ingest.store.verifier.events_and_dropped(span).await?;
    if stored.is_empty() || matches(seq, &events, &stored) {
        return Ok(());
    }
    Err(Stop::Alarm(format!(
        "record {seq} of the stream is not the record that was stored: the stream was reset (see `ingestor raise-generation`)"
    )))
}

/// Raises the generation, and returns the new one. Can be repeated if it was interrupted.
pub async fn raise(stream: &UsageStream, manifests: &Manifests, verifier: &Verifier, metrics: &Metrics) -> Result<u32> {
    let state = stream.state().await?;
    let mut highest = state.generation;
    for shard in 0..stream.shards {
        let (manifest, _) = manifests.read(shard).await?;
        highest = highest.max(manifest.map_or(0, |manifest| manifest.generation));
    }
    let generation = highest + 1;
    for shard in 0..stream.shards {
        let reader = Reader::new(stream.clone(), metrics.clone(), shard, state.generation, 0);
        let stored = last_stored(reader, verifier, shard, highest, state.last_seq)
            .await
            .with_context(|| format!("comparing shard {shard} with its rows"))?;
        begin_at(manifests, shard, generation, stored).await?;
        info!(
            shard,
            generation,
            done_through = stored,
            "the shard continues after its stored records"
        );
    }
    // Last, because no ingestor works while manifests and stream differ.
    stream.set_generation(generation).await?;
    Ok(generation)
}

/// The last of the stream's leading records that are stored in an earlier generation. A restored stream starts with the records
/// it had when it was saved.
async fn last_stored(
    mut reader: Reader,
    verifier: &Verifier,
    shard: u16,
    highest: u32,
    last: u64,
) -> Result<u64, Stop> {
    let mut through = 0;
    loop {
        let chunk = reread::next(&mut reader, last).await?;
        let (Some(first), Some(end)) = (chunk.first(), chunk.last()) else {
            return Ok(through);
        };
        let mut stored = Vec::new();
        for generation in 1..=highest {
            let span = Span {
                generation,
                shard,
                first: first.seq,
                last: end.seq,
            };
            stored.extend(verifier.events_and_dropped(span).await?);
        }
        stored.sort_unstable();
        for record in &chunk {
            match &record.content {
                Content::Events(_, events) if events.is_empty() || matches(record.seq, events, &stored) => {}
                Content::Dead(_) => {}
                Content::Events(..) => return Ok(through),
                Content::Newer(why) => return Err(Stop::Alarm(why.clone())),
            }
            through = record.seq;
        }
    }
}

/// Whether `stored`, in order, has an event of this record.
fn matches(seq: u64, events: &[UsageEvent], stored: &[StoredEvent]) -> bool {
    (0u32..).zip(events).any(|(idx, event)| {
        let row = StoredEvent {
            stream_seq: seq,
            idx,
            event_id: event.event_id.0,
        };
        stored.binary_search(&row).is_ok()
    })
}

async fn begin_at(manifests: &Manifests, shard: u16, generation: u32, done_through: u64) -> Result<()> {
    for _ in 0..WRITES_MAX {
        let (before, revision) = manifests.read(shard).await?;
        if let Some(pending) = before.and_then(|manifest| manifest.pending) {
            warn!(
                shard,
                first = pending.first,
                last = pending.last,
                "dropping the unfinished range of the old generation"
            );
        }
        let manifest = Manifest {
            owner: None,
            generation,
            done_through,
            pending: None,
        };
        match manifests.write(shard, manifest, revision).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Lost) => {}
            Err(trouble) => return Err(trouble.into()),
        }
    }
    bail!(
        "an ingestor keeps writing {}: stop all ingestors first",
        names::manifest_key(shard)
    )
}

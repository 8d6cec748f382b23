//! Compares records of the stream with stored events by position and id. A stream that was reset has other records at the same
//! positions.

use async_nats::jetstream::stream::RawMessageErrorKind;
use schema::{Manifest, UsageEvent};

use super::{
    content::Content,
    verify::{Span, StoredEvent, Verifier},
};
use crate::{stop::Stop, stream::UsageStream};

/// Checks that the last stored record of the shard is still the record that was stored. A stream that was reset may have grown
/// past that sequence since: it is not behind, but it is another stream.
pub async fn check(stream: &UsageStream, verifier: &Verifier, shard: u16, manifest: &Manifest) -> Result<(), Stop> {
    let seq = manifest.done_through;
    if seq == 0 {
        return Ok(());
    }
    let message = match stream.handle().await?.get_raw_message(seq).await {
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
    let stored = verifier.events_and_dropped(span).await?;
    if stored.is_empty() || matches(seq, &events, &stored) {
        return Ok(());
    }
    Err(Stop::Alarm(not_the_stored(seq)))
}

pub fn not_the_stored(seq: u64) -> String {
    format!(
        "record {seq} of the stream is not the record that was stored: the stream was reset (see `ingestor raise-generation`)"
    )
}

/// Whether `stored`, in order, has an event of this record.
pub fn matches(seq: u64, events: &[UsageEvent], stored: &[StoredEvent]) -> bool {
    (0u32..).zip(events).any(|(idx, event)| {
        let row = StoredEvent {
            stream_seq: seq,
            idx,
            event_id: event.event_id.0,
        };
        stored.binary_search(&row).is_ok()
    })
}

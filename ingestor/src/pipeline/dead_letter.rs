//! Stores records that cannot be decoded in a separate stream, with the reason.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{
        Context,
        context::{PublishError, PublishErrorKind},
    },
};
use bytes::Bytes;
use schema::names;
use service::Backoff;
use tracing::{error, warn};

use super::reader::Message;

/// Room for the headers, which are short. A payload that does not fit beside them is truncated.
const HEADERS_MAX: usize = 2 << 10;

/// Stores the record. Retries until it is stored, because the shard must not skip it.
pub async fn bury(jetstream: &Context, generation: u32, shard: u16, message: &Message, why: &str) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    error!(
        shard,
        seq = message.seq,
        bytes = message.payload.len(),
        "dead letter: {why}"
    );
    let mut payload = message.payload.clone();
    loop {
        match publish(jetstream, generation, shard, message.seq, payload.clone(), why).await {
            Ok(()) => return,
            Err(error) => {
                if too_large(&error) {
                    payload.truncate(payload.len().saturating_sub(HEADERS_MAX));
                }
                warn!(
                    shard,
                    seq = message.seq,
                    "could not store a dead letter, retrying: {error:#}"
                );
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn publish(jetstream: &Context, generation: u32, shard: u16, seq: u64, payload: Bytes, why: &str) -> Result<()> {
    let position = format!("{generation}/{shard}/{seq}");
    let mut headers = HeaderMap::new();
    // A line break would end the header.
    let why: String = why
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(500)
        .collect();
    headers.insert(names::DEAD_REASON, why);
    headers.insert(names::DEAD_POSITION, position.as_str());
    // After a crash the same record is published again: it stays one dead letter.
    headers.insert(NATS_MESSAGE_ID, position.as_str());
    jetstream
        .publish_with_headers(names::dead(shard), headers, payload)
        .await
        .context("publishing")?
        .await
        .context("publishing")?;
    Ok(())
}

fn too_large(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<PublishError>()
        .is_some_and(|error| error.kind() == PublishErrorKind::MaxPayloadExceeded)
}

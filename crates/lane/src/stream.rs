//! Reads the shards and the generation of the lane records' stream from the stream itself. The ingestor creates the stream;
//! writers wait for it.

use std::{collections::HashMap, time::Duration};

use anyhow::{Result, bail};
use async_nats::{
    Client,
    jetstream::{self, stream::Stream},
};
use schema::names::{META_GENERATION, META_SHARDS, USAGE_STREAM};
use service::{Backoff, Health};
use tracing::{info, warn};

/// The stream with its current shards and generation.
#[derive(Clone)]
pub struct UsageStream {
    pub stream: Stream<()>,
    pub shards: u16,
    pub generation: u32,
    /// The sequence of its last record when the stream was read.
    pub last_sequence: u64,
}

/// Waits until the stream exists. Fails if the stream can never take messages of `batch_bytes`.
pub async fn wait_for(client: &Client, health: &Health, batch_bytes: usize) -> Result<UsageStream> {
    const PART: &str = "stream";
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match look_closely(client).await {
            Ok((stream, message_bytes_max)) => {
                // The record's envelope and the headers need room beside the events.
                let needed = batch_bytes + 1024;
                if let Some(most) = message_bytes_max.filter(|most| *most < needed) {
                    bail!(
                        "a message of the stream {USAGE_STREAM} may have {most} bytes, and a batch of {batch_bytes} (BATCH_BYTES) \
                         needs {needed}: raise the server's max_payload and the stream's max_msg_size, or lower BATCH_BYTES"
                    );
                }
                health.up(PART);
                info!(
                    shards = stream.shards,
                    generation = stream.generation,
                    "found the stream"
                );
                return Ok(stream);
            }
            Err(why) => {
                let delay = backoff.next_delay();
                health.down(PART, format!("waiting for the stream: {why:#}"));
                warn!(
                    "waiting for the stream {USAGE_STREAM}, which an ingestor creates ({why:#}): looking again in {delay:.1?}"
                );
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// Reads the current stream.
pub async fn look(client: &Client) -> Result<UsageStream> {
    Ok(look_closely(client).await?.0)
}

/// Reads the stream and the largest message that it accepts.
async fn look_closely(client: &Client) -> Result<(UsageStream, Option<usize>)> {
    let context = jetstream::new(client.clone());
    let found = tokio::time::timeout(Duration::from_secs(5), context.get_stream(USAGE_STREAM)).await??;
    let config = &found.cached_info().config;
    let of_stream = usize::try_from(config.max_message_size).ok().filter(|bytes| *bytes > 0);
    let message_bytes_max = of_stream.into_iter().chain([client.max_payload()]).min();
    let (shards, generation) = shards_and_generation(&config.metadata)?;
    let stream = UsageStream {
        stream: context.get_stream_no_info(USAGE_STREAM).await?,
        shards,
        generation,
        last_sequence: found.cached_info().state.last_sequence,
    };
    Ok((stream, message_bytes_max))
}

fn shards_and_generation(metadata: &HashMap<String, String>) -> Result<(u16, u32)> {
    let read = |key: &str| {
        metadata
            .get(key)
            .and_then(|text| text.parse::<u32>().ok())
            .filter(|n| *n > 0)
    };
    match (
        read(META_SHARDS).and_then(|n| u16::try_from(n).ok()),
        read(META_GENERATION),
    ) {
        (Some(shards), Some(generation)) => Ok((shards, generation)),
        _ => bail!("its metadata lacks a valid {META_SHARDS} or {META_GENERATION}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_and_generation_are_both_read_or_refused() {
        let metadata = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(
            shards_and_generation(&metadata(&[(META_SHARDS, "8"), (META_GENERATION, "1")])).unwrap(),
            (8, 1)
        );
        for wrong in [
            metadata(&[]),
            metadata(&[(META_SHARDS, "8")]),
            metadata(&[(META_SHARDS, "0"), (META_GENERATION, "1")]),
            metadata(&[(META_SHARDS, "65536"), (META_GENERATION, "1")]),
            metadata(&[(META_SHARDS, "8"), (META_GENERATION, "-1")]),
        ] {
            assert!(shards_and_generation(&wrong).is_err());
        }
    }
}

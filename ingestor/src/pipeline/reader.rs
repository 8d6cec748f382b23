//! Reads the records of one shard in stream order, each exactly once.
//!
//! The consumer is ephemeral and acknowledges nothing, because the manifest records the progress. It is a plain pull consumer
//! with its own order check. The ordered consumer of async-nats recreates itself internally without end, so a stream that was
//! restored or recreated would look like a stream without traffic. Here each new consumer first compares the stream with the
//! records read so far. Prefetch is limited in bytes, too: 5,000 messages of 25 kB in one pull did not arrive.

use std::time::Duration;

use anyhow::{Context, anyhow};
use async_nats::jetstream::consumer::{
    AckPolicy, DeliverPolicy, PullConsumer,
    pull::{Config, Stream as Messages},
};
use bytes::Bytes;
use futures_util::StreamExt;
use schema::names;
use service::Backoff;
use tracing::warn;

use crate::{
    metrics::{Metrics, Shard},
    stop::Stop,
    stream::UsageStream,
};

/// Messages in one pull. Two pulls may be open.
const PULL_MESSAGES: usize = 1_000;
/// Lower bound for the bytes of one pull, which must hold the largest message.
const PULL_BYTES: usize = 4 << 20;
/// A silent server is asked again after twice this.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub struct Reader {
    stream: UsageStream,
    metrics: Metrics,
    shard: u16,
    generation: u32,
    /// The last record that was read, or the one after which reading starts.
    last: u64,
    consumer: Option<Consumer>,
}

struct Consumer {
    handle: PullConsumer,
    messages: Messages,
    /// Messages that it delivered.
    delivered: u64,
    /// Messages of the shard in the stream after the last delivered one.
    unread: u64,
}

/// One message of a lane.
#[derive(Clone, Debug)]
pub struct Message {
    pub seq: u64,
    /// When the stream stored it, in milliseconds since the Unix epoch.
    pub stored_ms: i64,
    pub payload: Bytes,
}

impl Reader {
    /// Starts after the record `after`, in the given generation of the stream.
    pub fn new(stream: UsageStream, metrics: Metrics, shard: u16, generation: u32, after: u64) -> Self {
        Self {
            stream,
            metrics,
            shard,
            generation,
            last: after,
            consumer: None,
        }
    }

    /// Waits for the next record, and while NATS is unavailable. Fails if the stream is not the one that was read before.
    ///
    /// Cancelling it discards a consumer that is being created, so do not cancel and call it in quick succession.
    pub async fn next(&mut self) -> Result<Message, Stop> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let Some(consumer) = &mut self.consumer else {
                match self.open().await {
                    Ok(consumer) => self.consumer = Some(consumer),
                    Err(Stop::Trouble(error)) => {
                        // Log an outage about once a minute, not for each shard every few seconds.
                        if backoff.tries() % 16 == 6 {
                            warn!(shard = self.shard, "could not create a reader: {error:#}");
                        }
                        tokio::time::sleep(backoff.next_delay()).await;
                    }
                    Err(stop) => return Err(stop),
                }
                continue;
            };
            match consumer.next().await {
                Ok(message) => {
                    self.last = message.seq;
                    return Ok(message);
                }
                Err(error) => {
                    warn!(
                        shard = self.shard,
                        after = self.last,
                        "creating a new reader: {error:#}"
                    );
                    self.metrics
                        .reader_resets
                        .get_or_create(&Shard { shard: self.shard })
                        .inc();
                    self.consumer = None;
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// The next record up to and including `last`. `None`: there is none now.
    pub async fn next_until(&mut self, last: u64) -> Result<Option<Message>, Stop> {
        if self.last >= last {
            return Ok(None);
        }
        let consumer = match &self.consumer {
            Some(consumer) => consumer,
            None => self.consumer.insert(self.open().await?),
        };
        if consumer.unread == 0 {
            return Ok(None);
        }
        let message = self.next().await?;
        Ok((message.seq <= last).then_some(message))
    }

    /// Unread records of the shard in the stream, according to the last message.
    pub fn unread(&self) -> Option<u64> {
        Some(self.consumer.as_ref()?.unread)
    }

    /// Asks the server for the same number. It does not count messages that are on their way.
    pub async fn ask_unread(&self) -> Option<u64> {
        Some(self.consumer.as_ref()?.handle.get_info().await.ok()?.num_pending)
    }

    async fn open(&self) -> Result<Consumer, Stop> {
        let state = self.stream.state().await?;
        if state.generation != self.generation || state.last_seq < self.last {
            return Err(Stop::Alarm(format!(
                "the stream is at generation {}, sequence {}, but was read up to generation {}, sequence {}: it was restored or \
                 reset (see `ingestor raise-generation`)",
                state.generation, state.last_seq, self.generation, self.last
            )));
        }
        let max_payload = self.stream.context.client().server_info().max_payload;
        let config = Config {
            description: Some("an ingestor's reader".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: self.last + 1,
            },
            ack_policy: AckPolicy::None,
            filter_subject: names::shard_lanes(self.shard),
            inactive_threshold: Duration::from_secs(60),
            num_replicas: 1,
            memory_storage: true,
            ..Config::default()
        };
        let handle = self
            .stream
            .handle()
            .await?
            .create_consumer(config)
            .await
            .context("creating a reader")?;
        let unread = handle.cached_info().num_pending;
        let messages = handle
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .max_bytes_per_batch(PULL_BYTES.max(2 * max_payload))
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .context("reading the shard")?;
        Ok(Consumer {
            handle,
            messages,
            delivered: 0,
            unread,
        })
    }
}

impl Consumer {
    async fn next(&mut self) -> anyhow::Result<Message> {
        let message = match self.messages.next().await {
            Some(message) => message?,
            None => return Err(anyhow!("the server ended the reader")),
        };
        let info = message
            .info()
            .map_err(|error| anyhow!("a message without a position: {error}"))?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(anyhow!(
                "message {} came after {}",
                info.consumer_sequence,
                self.delivered
            ));
        }
        self.delivered += 1;
        self.unread = info.pending;
        Ok(Message {
            seq: info.stream_sequence,
            stored_ms: schema::clock::unix_ms(info.published),
            payload: message.payload.clone(),
        })
    }
}

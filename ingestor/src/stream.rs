//! The NATS stream and buckets of ingest. The first ingestor to start creates them.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::{
    Client,
    jetstream::{
        self, Context, ErrorCode,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::{CreateStreamErrorKind, GetStreamErrorKind},
        kv::Store,
        stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream},
    },
};
use futures_util::TryStreamExt;
use protocol::claim::StreamState;
use schema::names;
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::config::{Settings, StreamSettings};

/// Generation of a stream that was created although manifests of an earlier stream exist: an operator must raise it.
pub const NOT_RAISED: u32 = 0;

/// The stream of lane records.
#[derive(Clone, Debug)]
pub struct UsageStream {
    pub context: Context,
    /// How many shards it has: fixed for its generation.
    pub shards: u16,
}

impl UsageStream {
    /// Creates missing streams and buckets, and returns the stream.
    pub async fn ensure(client: &Client, settings: &Settings) -> Result<Self> {
        let context = jetstream::new(client.clone());
        let replicas = settings.stream.replicas();
        ensure(&context, bucket(names::MANIFEST_BUCKET, Duration::ZERO, replicas)).await?;
        ensure(&context, bucket(names::MEMBER_BUCKET, settings.member_ttl, replicas)).await?;
        ensure(&context, dead_letters(replicas)).await?;
        let fresh = usage(&settings.stream, first_generation(&context).await?);
        let existing = ensure(&context, fresh).await?;
        let shards = number(&existing, names::META_SHARDS)?;
        if shards != settings.stream.shards {
            warn!(
                shards,
                setting = settings.stream.shards,
                "the stream keeps its number of shards: another number needs a new generation"
            );
        }
        Ok(Self { context, shards })
    }

    /// Whether an ingestor has worked on a shard.
    pub async fn is_in_use(&self) -> Result<bool> {
        has_manifests(&self.context).await
    }

    pub fn handle(&self) -> impl Future<Output = Result<Stream<()>>> {
        let stream = self.context.get_stream_no_info(names::USAGE_STREAM);
        async { stream.await.context("opening the usage stream") }
    }

    pub async fn info(&self) -> Result<Info> {
        let mut stream = self
            .context
            .get_stream(names::USAGE_STREAM)
            .await
            .context("reading the state of the usage stream")?;
        Ok(stream
            .info()
            .await
            .context("reading the state of the usage stream")?
            .clone())
    }

    pub async fn state(&self) -> Result<StreamState> {
        let info = self.info().await?;
        Ok(StreamState {
            generation: number(&info.config, names::META_GENERATION)?,
            last_seq: info.state.last_sequence,
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).unwrap_or(0),
        })
    }

    /// Sets the generation. Only for `generation.rs`, which writes the manifests first.
    pub async fn set_generation(&self, generation: u32) -> Result<()> {
        let mut config = self.info().await?.config;
        config
            .metadata
            .insert(names::META_GENERATION.to_owned(), generation.to_string());
        self.context
            .update_stream(config)
            .await
            .context("setting the stream's generation")?;
        Ok(())
    }

    /// The first record of a shard that the stream stored at `at` or later. `None`: there is none.
    pub async fn first_since(&self, shard: u16, at: OffsetDateTime) -> Result<Option<u64>> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartTime { start_time: at },
            ack_policy: AckPolicy::None,
            filter_subject: names::shard_lanes(shard),
            headers_only: true,
            inactive_threshold: Duration::from_secs(10),
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = self
            .handle()
            .await?
            .create_consumer(config)
            .await
            .context("looking for records by time")?;
        if consumer.cached_info().num_pending == 0 {
            return Ok(None);
        }
        let mut found = consumer
            .fetch()
            .max_messages(1)
            .messages()
            .await
            .context("looking for records by time")?;
        let first = found
            .try_next()
            .await
            .map_err(|error| anyhow!("looking for records by time: {error}"))?;
        match first {
            None => Ok(None),
            Some(message) => {
                let info = message
                    .info()
                    .map_err(|error| anyhow!("a message without a position: {error}"))?;
                Ok(Some(info.stream_sequence))
            }
        }
    }

    pub async fn bucket(&self, name: &str) -> Result<Store> {
        self.context
            .get_key_value(name)
            .await
            .with_context(|| format!("opening the bucket `{name}`"))
    }
}

fn usage(settings: &StreamSettings, generation: u32) -> Config {
    let metadata = [
        (names::META_SHARDS, settings.shards.to_string()),
        (names::META_GENERATION, generation.to_string()),
    ];
    Config {
        name: names::USAGE_STREAM.to_owned(),
        description: Some("Usage events, one subject a lane".to_owned()),
        subjects: vec![names::USAGE_SUBJECTS.to_owned()],
        max_bytes: settings.stream_max_bytes,
        metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        // Expected sequences order the lanes. Message ids and their window are not used.
        duplicate_window: Duration::from_millis(100),
        ..file_stream(settings.replicas())
    }
}

/// Kept for operators. The window prevents a replayed range from adding its dead letters again.
fn dead_letters(replicas: usize) -> Config {
    Config {
        name: names::DEAD_STREAM.to_owned(),
        description: Some("Lane records that nobody can decode, with the reason".to_owned()),
        subjects: vec![names::DEAD_SUBJECTS.to_owned()],
        max_bytes: 256 << 20,
        duplicate_window: Duration::from_secs(3_600),
        ..file_stream(replicas)
    }
}

/// A key-value bucket with one value for each key. It is read from its leader, because a replica that answers a Direct Get may
/// lag.
fn bucket(name: &str, max_age: Duration, replicas: usize) -> Config {
    Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_bytes: -1,
        max_age,
        duplicate_window: if max_age.is_zero() {
            Duration::from_millis(100)
        } else {
            // It must not exceed the lifetime of messages.
            max_age.min(Duration::from_millis(100))
        },
        allow_rollup: true,
        deny_delete: true,
        ..file_stream(replicas)
    }
}

fn file_stream(replicas: usize) -> Config {
    Config {
        retention: RetentionPolicy::Limits,
        // A full stream refuses new messages. It never drops old ones.
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        max_messages: -1,
        max_consumers: -1,
        allow_direct: false,
        ..Config::default()
    }
}

/// 1, unless manifests exist: then a stream created now lacks records that they cover.
async fn first_generation(context: &Context) -> Result<u32> {
    match has_manifests(context).await? {
        false => Ok(1),
        true => Ok(NOT_RAISED),
    }
}

async fn has_manifests(context: &Context) -> Result<bool> {
    let manifests = context
        .get_stream(format!("KV_{}", names::MANIFEST_BUCKET))
        .await
        .context("reading the state of the manifests")?;
    Ok(manifests.cached_info().state.messages > 0)
}

/// Returns the stream, created or adjusted if necessary. Safe when several ingestors start at the same time.
async fn ensure(context: &Context, wanted: Config) -> Result<Config> {
    let name = wanted.name.clone();
    let existing = match context.get_stream(&name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                match context.create_stream(wanted.clone()).await {
                    Ok(stream) => {
                        info!(stream = %name, "created the stream");
                        return Ok(stream.cached_info().config.clone());
                    }
                    // Another ingestor created it first, with other settings.
                    Err(error) if exists(&error.kind()) => {
                        let stream = context.get_stream(&name).await;
                        stream
                            .with_context(|| format!("reading the state of the stream {name}"))?
                            .cached_info()
                            .config
                            .clone()
                    }
                    Err(error) => return Err(error).with_context(|| format!("creating the stream {name}")),
                }
            }
            _ => return Err(error).with_context(|| format!("reading the state of the stream {name}")),
        },
    };
    let adjusted = Config {
        subjects: wanted.subjects,
        max_bytes: wanted.max_bytes,
        max_age: wanted.max_age,
        num_replicas: wanted.num_replicas,
        discard: wanted.discard,
        allow_direct: wanted.allow_direct,
        ..existing.clone()
    };
    if adjusted != existing {
        context
            .update_stream(adjusted.clone())
            .await
            .with_context(|| format!("adjusting the stream {name}"))?;
        info!(stream = %name, "adjusted the stream to the settings");
    }
    Ok(adjusted)
}

fn exists(kind: &CreateStreamErrorKind) -> bool {
    matches!(kind, CreateStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

fn number<N: std::str::FromStr>(config: &Config, key: &str) -> Result<N> {
    let metadata: &HashMap<String, String> = &config.metadata;
    match metadata.get(key).map(|value| value.parse()) {
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) => bail!("the metadata `{key}` of the stream {} must be a number", config.name),
        None => bail!(
            "the stream {} has no metadata `{key}`: it was not created by an ingestor",
            config.name
        ),
    }
}

//! The NATS stream and buckets of ingest. The first ingestor to start creates them ([`create`]), as the settings say
//! ([`wanted`]). Afterwards only the sub-command `stream set` changes them ([`set`]): every other ingestor and command uses them
//! as they are, and logs what differs from its settings.

pub mod create;
pub mod set;
pub mod wanted;

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::{
    Client,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, DeliverPolicy, pull},
        kv::Store,
        stream::{Config, Info, Stream},
    },
};
use futures_util::TryStreamExt;
use protocol::claim::StreamState;
use schema::names;
use time::OffsetDateTime;
use tracing::warn;

use self::create::Missing;
use crate::config::Settings;

/// The stream of lane records.
#[derive(Clone, Debug)]
pub struct UsageStream {
    pub context: Context,
    /// How many shards it has: fixed for its generation.
    pub shards: u16,
    /// The lifetime of an entry in the bucket of members.
    pub member_ttl: Duration,
}

impl UsageStream {
    /// Opens the stream and the buckets. Logs how they differ from the settings, and changes nothing. `None`: one is missing,
    /// and none was created.
    pub async fn open(client: &Client, settings: &Settings, missing: Missing) -> Result<Option<Self>> {
        let context = jetstream::new(client.clone());
        let mut existing = Vec::new();
        for wanted in wanted::buckets_and_dead_letters(settings) {
            existing.push(create::open(&context, wanted, missing).await?);
        }
        let generation = match missing {
            Missing::Create => create::first_generation(&context).await?,
            Missing::Leave => 0,
        };
        existing.push(create::open(&context, wanted::usage(&settings.stream, generation), missing).await?);
        let Some(existing) = existing.into_iter().collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let of = |name: &str| existing.iter().find(|config| config.name == name);
        let shards = number(
            of(names::USAGE_STREAM).context("the usage stream is missing")?,
            names::META_SHARDS,
        )?;
        if shards != settings.stream.shards {
            warn!(
                shards,
                setting = settings.stream.shards,
                "the stream keeps its number of shards (SHARDS is for a new stream)"
            );
        }
        let members = of(&wanted::bucket_stream(names::MEMBER_BUCKET)).context("the bucket of members is missing")?;
        Ok(Some(Self {
            member_ttl: members.max_age,
            context,
            shards,
        }))
    }

    /// Whether an ingestor has worked on a shard.
    pub async fn is_in_use(&self) -> Result<bool> {
        create::has_manifests(&self.context).await
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

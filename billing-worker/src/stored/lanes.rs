//! Lanes: ends those of a run that is over, and checks whether ClickHouse has everything that lanes contain.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::{
    Client,
    jetstream::{self, kv::Store, stream::LastRawMessageErrorKind},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use lane::{fence::fence, stream::UsageStream, subject::LaneSubject};
use protocol::{fence::is_stored, lane::LastRecord};
use schema::{Manifest, RunId, names};
use tokio::time::timeout;

/// For one request to NATS.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lanes that are checked or ended at the same time.
const LANES_AT_ONCE: usize = 16;

/// The lanes in the current stream of NATS, even if a run began in an earlier generation. Events of an earlier generation are in
/// ClickHouse or lost, and a live run can only write to the current stream.
pub struct Lanes {
    client: Client,
    stream: UsageStream,
    manifests: Store,
}

/// How the end of a lane is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// End the lane now, unless it has ended.
    Fence,
    /// Its run closed it: only look.
    Closed,
}

impl Lanes {
    pub async fn open(client: &Client) -> Result<Self> {
        let stream = lane::stream::look(client).await.context("looking at the stream")?;
        let context = jetstream::new(client.clone());
        let manifests = timeout(PATIENCE, context.get_key_value(names::MANIFEST_BUCKET))
            .await
            .context("opening the manifests")?
            .context("opening the manifests")?;
        Ok(Self {
            client: client.clone(),
            stream,
            manifests,
        })
    }

    /// Of the stream.
    pub fn generation(&self) -> u32 {
        self.stream.generation
    }

    pub fn shards(&self) -> u16 {
        self.stream.shards
    }

    /// Ends the run's lane in a shard, unless it has ended.
    pub async fn fence(&self, run: RunId, shard: u16) -> Result<()> {
        self.end(run, shard, Ending::Fence).await.map(drop)
    }

    /// Returns the sequence of the last record in any lane of a shard, from the stream's leader. 0: all its records were stored
    /// and trimmed, or there was none.
    pub async fn last_of(&self, shard: u16) -> Result<u64> {
        let subject = names::shard_lanes(shard);
        let get = self.stream.stream.get_last_raw_message_by_subject(&subject);
        match timeout(PATIENCE, get)
            .await
            .context("reading the last record of a shard")?
        {
            Ok(message) => Ok(message.sequence),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(error) => Err(error).context("reading the last record of a shard"),
        }
    }

    /// Returns whether the shard is stored up to this sequence.
    pub async fn is_stored(&self, shard: u16, sequence: u64) -> Result<bool> {
        self.are_covered(&[(shard, sequence)]).await
    }

    /// Returns whether all lanes of a run are final and stored. `false`: the ingestor has not reached their ends yet, ask again.
    pub async fn are_final(&self, run: RunId, shards: u16, ending: Ending) -> Result<bool> {
        let ends = (0..shards).map(|shard| self.end(run, shard, ending)).collect();
        let ends = some_at_once(ends).await?;
        self.are_covered(&ends).await
    }

    /// Does the same for one lane, which a fence ends.
    pub async fn is_final(&self, run: RunId, shard: u16) -> Result<bool> {
        // End the lanes first. Otherwise events stored after the check would be missed.
        let end = self.end(run, shard, Ending::Fence).await?;
        self.are_covered(&[end]).await
    }

    /// Returns the shard, and the sequence after which no event of the run is ever stored. 0: all its events were stored and
    /// trimmed.
    async fn end(&self, run: RunId, shard: u16, ending: Ending) -> Result<(u16, u64)> {
        let lane = LaneSubject::new(&self.client, &self.stream.stream, shard, run);
        let ended = match ending {
            Ending::Fence => fence(&lane, PATIENCE).await,
            Ending::Closed => lane.last_record(PATIENCE).await.map(|last| match last {
                LastRecord::At { sequence, .. } => sequence,
                LastRecord::None => 0,
            }),
        };
        let end = ended.with_context(|| format!("ending the lane {}", lane.name()))?;
        Ok((shard, end))
    }

    /// Returns whether each shard is stored up to the end of the lane in it.
    async fn are_covered(&self, ends: &[(u16, u64)]) -> Result<bool> {
        let manifests = ends.iter().map(|(shard, _)| self.manifest(*shard)).collect();
        let manifests = some_at_once(manifests).await?;
        // After the manifests: a stream that ends before they do is a different stream.
        let now = lane::stream::look(&self.client)
            .await
            .context("looking at the stream")?;
        if now.generation != self.stream.generation {
            bail!("the generation of the stream was raised meanwhile: its lanes may be gone");
        }
        let mut shards = manifests.iter().zip(ends);
        Ok(shards.all(|(manifest, (_, end))| is_stored(manifest, *end, now.generation, now.last_sequence)))
    }

    /// A shard without a manifest has nothing stored.
    async fn manifest(&self, shard: u16) -> Result<Manifest> {
        let entry = timeout(PATIENCE, self.manifests.get(names::manifest_key(shard)))
            .await
            .context("reading a manifest")?
            .context("reading a manifest")?;
        match entry {
            Some(entry) => Manifest::decode(&entry).context("reading a manifest"),
            None => Ok(Manifest::default()),
        }
    }
}

/// Returns the results in the order of the work.
async fn some_at_once<T>(work: Vec<impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    stream::iter(work).buffered(LANES_AT_ONCE).try_collect().await
}

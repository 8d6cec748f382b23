//! The state that all shards of this ingestor share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as SyncMutex, PoisonError},
};

use service::Lifecycle;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};

use crate::{
    alarms::Alarms, config::Settings, manifests::Manifests, metrics::Metrics, pipeline::store::Store,
    shards::members::Members, stream::UsageStream, tables::Tables, upkeep::audit::Audit,
};

pub struct Ingest {
    pub settings: Settings,
    pub life: Lifecycle,
    pub stream: UsageStream,
    pub manifests: Manifests,
    /// The id of this ingestor.
    pub me: String,
    pub members: Mutex<Members>,
    pub store: Store,
    pub tables: Tables,
    pub audit: Audit,
    pub alarms: Alarms,
    pub metrics: Metrics,
    pub owned: Owned,
    pub budget: Budget,
    /// Permits for concurrent inserts.
    pub inserts: Arc<Semaphore>,
    /// The permit for a replay: one at a time.
    pub replays: Semaphore,
    /// Starts an audit now.
    pub audit_soon: Notify,
}

/// The shards that this ingestor owns, and how far each is stored.
#[derive(Debug, Default)]
pub struct Owned {
    shards: SyncMutex<BTreeMap<u16, u64>>,
    /// Shards with rows that ClickHouse lacks, and the first record without them.
    behind: SyncMutex<BTreeMap<u16, u64>>,
}

/// The memory for records.
#[derive(Clone, Debug)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
    kilobytes: u32,
}

impl Owned {
    pub fn done(&self, shard: u16, through: u64) {
        self.shards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(shard, through);
    }

    pub fn remove(&self, shard: u16) {
        self.shards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&shard);
    }

    /// Reports that ClickHouse lacks rows of this record of an owned shard. The work on the shard then ends with
    /// [`crate::stop::Stop::Behind`].
    pub fn set_behind(&self, shard: u16, from: u64) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let first = behind.entry(shard).or_insert(from);
        *first = from.min(*first);
    }

    /// The first record without rows, once.
    pub fn take_behind(&self, shard: u16) -> Option<u64> {
        self.behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&shard)
    }

    /// The owned shards and their progress. A shard may get another owner at any moment. Its progress only grows.
    pub fn all(&self) -> BTreeMap<u16, u64> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Budget {
    pub fn new(bytes: u64) -> Self {
        let kilobytes = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        Self {
            semaphore: Arc::new(Semaphore::new(kilobytes as usize)),
            kilobytes,
        }
    }

    /// Waits for memory for a record of this many bytes. The permit holds the memory until it is dropped. A record larger than
    /// the whole memory waits until it is alone.
    pub fn take(&self, bytes: u64) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static {
        let kilobytes = u32::try_from(bytes.div_ceil(1024).max(1))
            .unwrap_or(u32::MAX)
            .min(self.kilobytes);
        let semaphore = Arc::clone(&self.semaphore);
        async move { semaphore.acquire_many_owned(kilobytes).await.ok() }
    }
}

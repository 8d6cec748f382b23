//! The cache of API keys, each with its account and counters: one look-up for each request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use prometheus_client::registry::Registry;
use schema::{Catalogue, KeyId, api_key::ParseKeyError, clock};
use sqlx::PgPool;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};
use tracing::warn;

use super::{
    account::Account,
    key::{Key, Shared},
    key_metrics::KeyMetrics,
    stored,
    unread::{Row, Unread},
    versions::Versions,
};
use crate::quota::{Counters, LeaseRequests, Quotas};

#[derive(Clone, Debug)]
pub struct AccountSettings {
    /// Maximum number of keys in the cache. The least used keys are evicted.
    pub keys_max: u64,
    /// A key that was not used for this long is dropped from the cache.
    pub key_idle: Duration,
    /// Maximum number of unknown keys to remember. They have their own cache.
    pub unknown_keys_max: u64,
    /// How long the cache remembers that a key does not exist.
    pub unknown_key_for: Duration,
    /// How often everything in the cache is read again, in case an announcement was lost: at most 60 s.
    pub refresh_interval: Duration,
    /// Maximum number of concurrent loads of keys that are not cached. The limit leaves connections for leases.
    pub loads_max: usize,
    /// How long loading a key may take. After that the request fails as unavailable.
    pub load_deadline: Duration,
}

impl Default for AccountSettings {
    fn default() -> Self {
        Self {
            keys_max: 100_000,
            key_idle: Duration::from_secs(3_600),
            unknown_keys_max: 10_000,
            unknown_key_for: Duration::from_secs(10),
            refresh_interval: Duration::from_secs(20),
            loads_max: 4,
            load_deadline: Duration::from_secs(2),
        }
    }
}

#[derive(Clone)]
pub struct Accounts {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) pool: PgPool,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) versions: Versions,
    pub(super) counters: Arc<Counters>,
    pub(super) requests: Arc<LeaseRequests>,
    pub(super) settings: AccountSettings,
    pub(super) metrics: KeyMetrics,
    pub(super) keys: Cache<KeyId, Arc<Key>>,
    pub(super) unknown: Cache<KeyId, ()>,
    pub(super) loads: Semaphore,
    /// Counts announcements: rows that were read before an announcement may be older than it.
    pub(super) heard: AtomicU64,
    pub(super) rereading: tokio::sync::Mutex<()>,
    /// Announced changes.
    pub(super) unread: Unread,
    /// Changes with each attempt to read rows again. True: announced changes could not be read.
    pub(super) reading_fails: watch::Sender<bool>,
    /// Announcements may have been missed: everything has to be read again.
    pub(super) missed: Notify,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error(transparent)]
    Malformed(#[from] ParseKeyError),
    #[error("unknown, expired or revoked API key")]
    Unknown,
    /// The key is not cached and PostgreSQL is unavailable.
    #[error("the key cannot be checked now")]
    Unavailable,
}

/// Why a key could not be loaded. All requests that waited for it share the error.
enum LoadError {
    NotThere,
    Unavailable,
}

impl Accounts {
    pub fn new(
        pool: PgPool,
        catalogue: Arc<Catalogue>,
        settings: AccountSettings,
        quotas: &Quotas,
        metrics: &mut Registry,
    ) -> Self {
        let keys = Cache::builder()
            .max_capacity(settings.keys_max)
            .time_to_idle(settings.key_idle)
            .build();
        let unknown = Cache::builder()
            .max_capacity(settings.unknown_keys_max)
            .time_to_live(settings.unknown_key_for)
            .build();
        Self {
            inner: Arc::new(Inner {
                pool,
                catalogue,
                versions: Versions::default(),
                counters: Arc::clone(quotas.counters()),
                requests: Arc::clone(quotas.requests()),
                metrics: KeyMetrics::register(metrics),
                keys,
                unknown,
                loads: Semaphore::new(settings.loads_max.max(1)),
                heard: AtomicU64::new(0),
                rereading: tokio::sync::Mutex::new(()),
                unread: Unread::default(),
                reading_fails: watch::Sender::new(false),
                missed: Notify::new(),
                settings,
            }),
        }
    }

    /// Returns the key for the text of an `Authorization: Bearer` header. A text with a wrong checksum fails before any look-up.
    pub async fn authenticate(&self, key: &str, now_s: i64) -> Result<Arc<Key>, AuthError> {
        let (id, hash) = schema::api_key::identify(key)?;
        let cached = self.inner.keys.get(&id).await;
        if cached.is_some() {
            self.inner.metrics.hits.inc();
        }
        let key = match cached {
            Some(key) if key.is_read() => key,
            cached => self.inner.read(id, cached).await?,
        };
        if key.stored.admits(&hash, now_s) {
            Ok(key)
        } else {
            Err(AuthError::Unknown)
        }
    }
}

impl Inner {
    /// The key, once it and its account are read: it is not in the cache, or a change was announced. Waits for the reader of
    /// announced changes, up to the deadline of a load. Fails at once while announced changes cannot be read.
    async fn read(&self, id: KeyId, mut cached: Option<Arc<Key>>) -> Result<Arc<Key>, AuthError> {
        let mut attempts = self.reading_fails.subscribe();
        let deadline = Instant::now() + self.settings.load_deadline;
        loop {
            // First, so that no attempt is missed between the check and the wait.
            let fails = *attempts.borrow_and_update();
            let key = match cached.take() {
                Some(key) => key,
                None => self.load(id).await?,
            };
            key.settle_first_read(self.heard.load(Ordering::SeqCst));
            if key.is_read() {
                return Ok(key);
            }
            self.unread.want([Row::Key(id), Row::Account(key.account.id)]);
            if fails {
                return Err(AuthError::Unavailable);
            }
            // The sender lives as long as the cache.
            if timeout_at(deadline, attempts.changed()).await.is_err() {
                return Err(AuthError::Unavailable);
            }
            cached = self.keys.get(&id).await;
        }
    }

    /// Waits until announced changes of the account are read, up to the deadline of a load.
    pub(super) async fn is_read(&self, account: &Account) -> bool {
        let mut attempts = self.reading_fails.subscribe();
        let reading = async {
            while !account.doubt.is_settled() {
                attempts.changed().await.ok();
            }
        };
        timeout(self.settings.load_deadline, reading).await.is_ok()
    }

    /// Loads a key that is not cached. All requests that wait for the key share one load. The key is in doubt until
    /// [`Key::settle_first_read`].
    async fn load(&self, id: KeyId) -> Result<Arc<Key>, AuthError> {
        if self.unknown.contains_key(&id) {
            self.metrics.unknown.inc();
            return Err(AuthError::Unknown);
        }
        self.metrics.misses.inc();
        let heard = self.heard.load(Ordering::SeqCst);
        match self.keys.try_get_with(id, self.fetch(id)).await {
            Ok(key) => Ok(key),
            Err(error) => match *error {
                LoadError::NotThere => {
                    if self.heard.load(Ordering::SeqCst) == heard {
                        self.unknown.insert(id, ()).await;
                    }
                    Err(AuthError::Unknown)
                }
                LoadError::Unavailable => Err(AuthError::Unavailable),
            },
        }
    }

    async fn fetch(&self, id: KeyId) -> Result<Arc<Key>, LoadError> {
        let fetch = async {
            // Never closed, so a permit always comes.
            let _permit = self.loads.acquire().await.ok();
            let read_after = self.heard.load(Ordering::SeqCst);
            let Some((id, account_id, stored)) = stored::keys(&self.pool, &[id]).await?.pop() else {
                return Ok(None);
            };
            let counters = match self.counters.known(account_id) {
                Some(counters) => counters,
                None => {
                    let rows = stored::accounts(&self.pool, &self.versions, &[account_id], &self.catalogue).await?;
                    let Some((_, facts)) = rows.into_iter().next() else {
                        return Ok(None);
                    };
                    let now_s = clock::now_s();
                    self.counters
                        .share(Account::new(account_id, facts, &self.catalogue, now_s, read_after))
                }
            };
            let shared = Shared {
                read_after,
                ..Shared::default()
            };
            Ok(Some(Arc::new(Key {
                id,
                account: Arc::clone(&counters.account),
                counters,
                stored,
                shared: Arc::new(shared),
            })))
        };
        match timeout(self.settings.load_deadline, fetch).await {
            Ok(Ok(found)) => found.ok_or(LoadError::NotThere),
            Ok(Err(error)) => {
                let error: sqlx::Error = error;
                warn!(key.id = %id, "cannot load a key: {error}");
                Err(LoadError::Unavailable)
            }
            Err(_) => Err(LoadError::Unavailable),
        }
    }

    /// Whether some account is being read.
    pub(super) fn is_loading(&self) -> bool {
        self.loads.available_permits() < self.settings.loads_max.max(1)
    }
}

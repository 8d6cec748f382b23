//! Keys and accounts, cached: one look-up a request.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use prometheus_client::registry::Registry;
use schema::{AccountId, Catalogue, KeyId, UsageType, api_key::ParseKeyError, clock};
use service::Lifecycle;
use sqlx::PgPool;
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

use super::{refresh, stored};
use crate::{
    accounts::account::{Account, Key},
    quota::{decision_metrics::KeyMetrics, leases::Desk, quotas::Quotas},
};

#[derive(Clone, Debug)]
pub struct AccountSettings {
    /// Keys in the cache at the most; the least used make room.
    pub keys_max: u64,
    /// A key that was not used for so long leaves the cache.
    pub key_idle: Duration,
    /// Keys that do not exist, remembered at the most, in a cache of their own.
    pub unknown_keys_max: u64,
    /// How long it is remembered that a key does not exist.
    pub unknown_key_for: Duration,
    /// How often all that is cached is read again, in case an announcement was lost: 60 s at the most.
    pub refresh_interval: Duration,
    /// Cold keys that are loaded at the same time: a flood of them leaves connections for leases.
    pub loads_max: usize,
    /// How long a cold key may take before it is answered `503`.
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
    pub(super) desk: Arc<Desk>,
    pub(super) settings: AccountSettings,
    pub(super) metrics: KeyMetrics,
    pub(super) keys: Cache<KeyId, Arc<Key>>,
    pub(super) unknown: Cache<KeyId, ()>,
    /// One object an account, as long as any key or lease refers to it: two would count apart.
    pub(super) accounts: Mutex<HashMap<AccountId, Weak<Account>>>,
    pub(super) loads: Semaphore,
    /// Counts announcements: what was read before one may be older than it.
    pub(super) changes: AtomicU64,
    pub(super) rereading: tokio::sync::Mutex<()>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error(transparent)]
    Malformed(#[from] ParseKeyError),
    #[error("unknown, expired or revoked API key")]
    Unknown,
    /// The key is not cached and Postgres is away.
    #[error("the key cannot be checked now")]
    Unavailable,
}

/// Why a key could not be loaded; shared by all who waited for it.
enum LoadError {
    NotThere,
    Unavailable,
}

impl Accounts {
    /// Starts the refresh, which stops with the service.
    pub fn new(
        pool: PgPool,
        catalogue: Arc<Catalogue>,
        settings: AccountSettings,
        quotas: &Quotas,
        metrics: &mut Registry,
        life: &Lifecycle,
    ) -> Self {
        let keys = Cache::builder()
            .max_capacity(settings.keys_max)
            .time_to_idle(settings.key_idle)
            .build();
        let unknown = Cache::builder()
            .max_capacity(settings.unknown_keys_max)
            .time_to_live(settings.unknown_key_for)
            .build();
        let accounts = Self {
            inner: Arc::new(Inner {
                pool,
                catalogue,
                desk: Arc::clone(quotas.desk()),
                metrics: KeyMetrics::register(metrics),
                keys,
                unknown,
                accounts: Mutex::default(),
                loads: Semaphore::new(settings.loads_max.max(1)),
                changes: AtomicU64::new(0),
                rereading: tokio::sync::Mutex::new(()),
                settings,
            }),
        };
        life.spawn(refresh::run(accounts.clone(), life.clone()));
        accounts
    }

    /// The key behind the text of an `Authorization: Bearer` header. A text whose checksum is wrong reaches no cache and no
    /// store.
    pub async fn authenticate(&self, key: &str, now_s: i64) -> Result<Arc<Key>, AuthError> {
        let (id, hash) = schema::api_key::identify(key)?;
        let key = match self.inner.keys.get(&id).await {
            Some(key) => {
                self.inner.metrics.hits.inc();
                key
            }
            None => self.inner.load(id).await?,
        };
        if key.admits(&hash, now_s) {
            Ok(key)
        } else {
            Err(AuthError::Unknown)
        }
    }

    /// Units of the account came back somewhere: what its counters remember is of before.
    pub(crate) fn void_refusals(&self, id: AccountId) {
        if let Some(account) = self.known(id) {
            account.counters().for_each(|(_, counter)| counter.refusals.void());
        }
    }

    pub(crate) fn void_all_refusals(&self) {
        for account in self.inner.known_accounts() {
            account.counters().for_each(|(_, counter)| counter.refusals.void());
        }
    }

    /// The account, if a key or a lease of it is in memory.
    pub(crate) fn known(&self, id: AccountId) -> Option<Arc<Account>> {
        self.inner.known_account(id)
    }

    pub(crate) fn usage_type(&self, name: &str) -> Option<UsageType> {
        self.inner.catalogue.usage_type(name)
    }
}

impl Inner {
    /// Loads a key that is not cached; once, however many ask for it.
    async fn load(&self, id: KeyId) -> Result<Arc<Key>, AuthError> {
        if self.unknown.contains_key(&id) {
            self.metrics.unknown.inc();
            return Err(AuthError::Unknown);
        }
        self.metrics.misses.inc();
        let changes = self.changes.load(Ordering::SeqCst);
        let unchanged = || self.changes.load(Ordering::SeqCst) == changes;
        match self.keys.try_get_with(id, self.fetch(id)).await {
            Ok(key) => {
                if unchanged() {
                    return Ok(key);
                }
                // An announcement passed between the reading and the caching, and found nothing to read again.
                let account = Arc::clone(&key.account);
                self.reread("a new key", &[key], &[account]).await;
                self.keys.get(&id).await.ok_or(AuthError::Unknown)
            }
            Err(error) => match *error {
                LoadError::NotThere => {
                    if unchanged() {
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
            let Some((id, account_id, stored)) = stored::keys(&self.pool, &[id]).await?.pop() else {
                return Ok(None);
            };
            let account = match self.known_account(account_id) {
                Some(account) => account,
                None => {
                    let rows = stored::accounts(&self.pool, &[account_id], &self.catalogue).await?;
                    let Some((_, facts)) = rows.into_iter().next() else {
                        return Ok(None);
                    };
                    self.share(Account::new(account_id, facts, &self.catalogue, clock::now_s()))
                }
            };
            let bucket = Arc::default();
            Ok(Some(Arc::new(Key {
                id,
                account,
                stored,
                bucket,
            })))
        };
        match timeout(self.settings.load_deadline, fetch).await {
            Ok(Ok(found)) => found.ok_or(LoadError::NotThere),
            Ok(Err(error)) => {
                let error: sqlx::Error = error;
                warn!(key.id = %id, "a key could not be loaded: {error}");
                Err(LoadError::Unavailable)
            }
            Err(_) => Err(LoadError::Unavailable),
        }
    }

    pub(super) fn known_account(&self, id: AccountId) -> Option<Arc<Account>> {
        self.registry().get(&id)?.upgrade()
    }

    /// The one object of this account: the one that another key brought meanwhile, or else this.
    fn share(&self, account: Account) -> Arc<Account> {
        let mut registry = self.registry();
        if let Some(known) = registry.get(&account.id).and_then(Weak::upgrade) {
            return known;
        }
        let account = Arc::new(account);
        registry.insert(account.id, Arc::downgrade(&account));
        account
    }

    /// All accounts in memory; those that nothing refers to any more are forgotten.
    pub(super) fn known_accounts(&self) -> Vec<Arc<Account>> {
        let mut known = Vec::new();
        self.registry().retain(|_, account| {
            known.extend(account.upgrade());
            account.strong_count() > 0
        });
        known
    }

    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    fn registry(&self) -> MutexGuard<'_, HashMap<AccountId, Weak<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Keeps the cache up to date: reads everything again at intervals, and announced changes at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use schema::{AccountId, KeyId, clock};
use service::Lifecycle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::{
    Accounts,
    account::Facts,
    cache::Inner,
    key::{Key, StoredKey},
    stored,
};
use crate::quota::AccountCounters;

/// Keys or accounts read by one statement.
const CHUNK: usize = 1_000;
/// After this time PostgreSQL counts as unavailable, and the cache stays in use unchanged.
const QUERY_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until the service stops. Reads everything again at each interval, and stale accounts at once.
pub fn follow(accounts: Accounts, life: &Lifecycle) {
    life.spawn(run(accounts, life.clone()));
}

async fn run(accounts: Accounts, life: Lifecycle) {
    let mut ticks = interval(accounts.inner.settings.refresh_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                accounts.refresh_all().await;
            }
            stale = accounts.inner.requests.stale() => {
                let known: Vec<_> = stale.into_iter().filter_map(|id| accounts.inner.counters.known(id)).collect();
                accounts.inner.reread("stale accounts", &[], &known).await;
            }
            () = life.stopping() => return,
        }
    }
}

impl Accounts {
    /// Reads every cached key and account again. `false`: some could not be read.
    pub async fn refresh_all(&self) -> bool {
        let inner = &self.inner;
        let keys: Vec<Arc<Key>> = inner.keys.iter().map(|(_, key)| key).collect();
        let accounts = inner.counters.all_known();
        inner.metrics.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        inner
            .metrics
            .accounts
            .set(i64::try_from(accounts.len()).unwrap_or(i64::MAX));
        inner.reread("the cache", &keys, &accounts).await
    }

    /// Applies an announced change of these keys and accounts. When it returns, the change is in effect, unless PostgreSQL is
    /// unavailable.
    pub async fn refresh(&self, keys: &[KeyId], accounts: &[AccountId]) {
        let inner = &self.inner;
        inner.note_change();
        let known: Vec<_> = accounts.iter().filter_map(|id| inner.counters.known(*id)).collect();
        // Also for accounts whose rows did not change: the announced change may make a remembered refusal wrong.
        known.iter().for_each(|account| account.void_refusals());
        let mut cached = Vec::new();
        for id in keys {
            inner.unknown.invalidate(id).await;
            cached.extend(inner.keys.get(id).await);
        }
        inner.reread("announced changes", &cached, &known).await;
    }
}

impl Inner {
    /// Reads these again. Rows that cannot be read now stay as they are until the next interval; then it returns `false`.
    pub(super) async fn reread(&self, what: &str, keys: &[Arc<Key>], accounts: &[Arc<AccountCounters>]) -> bool {
        let read = async {
            for chunk in keys.chunks(CHUNK) {
                self.reread_keys(chunk).await?;
            }
            for chunk in accounts.chunks(CHUNK) {
                self.reread_accounts(chunk).await?;
            }
            Ok::<(), anyhow::Error>(())
        };
        if let Err(error) = read.await {
            self.metrics.refreshes_failed.inc();
            warn!("cannot read {what} again; the cached rows stay in use: {error:#}");
            return false;
        }
        true
    }

    async fn reread_keys(&self, keys: &[Arc<Key>]) -> anyhow::Result<()> {
        // One at a time, so that older rows never overwrite newer ones.
        let _permit = self.rereading.lock().await;
        let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        let rows = timeout(QUERY_DEADLINE, stored::keys(&self.pool, &ids)).await??;
        let rows: HashMap<KeyId, StoredKey> = rows.into_iter().map(|(id, _, stored)| (id, stored)).collect();
        for key in keys {
            match rows.get(&key.id) {
                Some(stored) if *stored == key.stored => {}
                Some(stored) => {
                    let changed = Key {
                        id: key.id,
                        account: Arc::clone(&key.account),
                        counters: Arc::clone(&key.counters),
                        stored: *stored,
                        bucket: Arc::clone(&key.bucket),
                    };
                    self.keys.insert(key.id, Arc::new(changed)).await;
                }
                None => self.keys.invalidate(&key.id).await,
            }
        }
        Ok(())
    }

    async fn reread_accounts(&self, accounts: &[Arc<AccountCounters>]) -> anyhow::Result<()> {
        let _permit = self.rereading.lock().await;
        let ids: Vec<AccountId> = accounts.iter().map(|counters| counters.account.id).collect();
        let read = stored::accounts(&self.pool, &self.versions, &ids, &self.catalogue);
        let rows = timeout(QUERY_DEADLINE, read).await??;
        let mut rows: HashMap<AccountId, Facts> = rows.into_iter().collect();
        for counters in accounts {
            let account = &counters.account;
            let Some(facts) = rows.remove(&account.id) else {
                continue;
            };
            let changed = account.apply(facts, clock::now_s());
            if !changed.is_empty() {
                info!(account.id = %account.id, pools = ?changed, "account changed");
            }
            for counter in changed.into_iter().filter_map(|pool| counters.existing(pool)) {
                counter.close();
            }
        }
        Ok(())
    }
}

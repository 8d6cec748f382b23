//! Keeps what is cached true: all of it is read again every so often, and what was announced at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use schema::{AccountId, KeyId, clock};
use service::Lifecycle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::{Accounts, cache::Inner, stored};
use crate::accounts::account::{Account, Facts, Key, StoredKey};

/// Keys or accounts read by one statement.
const CHUNK: usize = 1_000;
/// Longer than that, Postgres is away; what is cached stays in use.
const QUERY_DEADLINE: Duration = Duration::from_secs(5);

/// Reads everything again every interval, and what turned out to be stale, until the service stops.
pub(super) async fn run(accounts: Accounts, life: Lifecycle) {
    let mut ticks = interval(accounts.inner.settings.refresh_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => accounts.refresh_all().await,
            stale = accounts.inner.desk.stale() => accounts.inner.reread("stale accounts", &[], &stale).await,
            () = life.stopping() => return,
        }
    }
}

impl Accounts {
    /// Reads every cached key and account again.
    pub async fn refresh_all(&self) {
        let inner = &self.inner;
        let keys: Vec<Arc<Key>> = inner.keys.iter().map(|(_, key)| key).collect();
        let accounts = inner.known_accounts();
        inner.metrics.keys.set(keys.len() as i64);
        inner.metrics.accounts.set(accounts.len() as i64);
        inner.reread("the cache", &keys, &accounts).await;
    }

    /// Something about these was announced: it holds from now on.
    pub async fn refresh(&self, keys: &[KeyId], accounts: &[AccountId]) {
        let inner = &self.inner;
        inner.note_change();
        // Whatever is asked from here on is asked under what changed, also where nothing of the account itself did.
        accounts.iter().for_each(|id| self.void_refusals(*id));
        let mut cached = Vec::new();
        for id in keys {
            inner.unknown.invalidate(id).await;
            cached.extend(inner.keys.get(id).await);
        }
        let known: Vec<Arc<Account>> = accounts.iter().filter_map(|id| inner.known_account(*id)).collect();
        inner.reread("what was announced", &cached, &known).await;
    }
}

impl Inner {
    /// Reads these again. What cannot be read now stays as it is, until the next interval.
    pub(super) async fn reread(&self, what: &str, keys: &[Arc<Key>], accounts: &[Arc<Account>]) {
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
            warn!("could not read {what} again, going on with what is known: {error:#}");
        }
    }

    async fn reread_keys(&self, keys: &[Arc<Key>]) -> anyhow::Result<()> {
        // One at a time: what was read first must not be written last.
        let _turn = self.rereading.lock().await;
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

    async fn reread_accounts(&self, accounts: &[Arc<Account>]) -> anyhow::Result<()> {
        let _turn = self.rereading.lock().await;
        let ids: Vec<AccountId> = accounts.iter().map(|account| account.id).collect();
        let rows = timeout(QUERY_DEADLINE, stored::accounts(&self.pool, &ids, &self.catalogue)).await??;
        let mut rows: HashMap<AccountId, Facts> = rows.into_iter().collect();
        for account in accounts {
            let Some(facts) = rows.remove(&account.id) else {
                continue;
            };
            let changed = account.apply(facts, clock::now_s());
            if !changed.is_empty() {
                info!(account.id = %account.id, usage_types = ?changed, "account changed");
            }
            for usage_type in changed {
                self.desk.close(account, usage_type);
            }
        }
        Ok(())
    }
}

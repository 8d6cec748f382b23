//! Keeps the cache up to date: reads everything again at intervals, and announced changes at once.

use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use moka::ops::compute::Op;
use schema::{AccountId, KeyId, clock};
use service::{Backoff, Lifecycle};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::{
    Accounts,
    account::Facts,
    cache::Inner,
    key::{Key, StoredKey},
    stored,
    unread::Row,
};
use crate::quota::AccountCounters;

/// Keys or accounts read by one statement.
const CHUNK: usize = 1_000;
/// After this time PostgreSQL counts as unavailable. The cache stays in use, but for what is in doubt.
const QUERY_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until the service stops. Reads everything again at each interval, and stale accounts and announced changes at once.
pub fn follow(accounts: Accounts, life: &Lifecycle) {
    life.spawn(run(accounts.clone(), life.clone()));
    life.spawn(read_announced(accounts, life.clone()));
}

async fn run(accounts: Accounts, life: Lifecycle) {
    let inner = &accounts.inner;
    let mut ticks = interval(inner.settings.refresh_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                accounts.refresh_all().await;
            }
            () = inner.missed.notified() => {
                accounts.refresh_all().await;
            }
            stale = inner.requests.stale() => {
                let known: Vec<_> = stale.into_iter().filter_map(|id| inner.counters.known(id)).collect();
                inner.reread("stale accounts", &[], &known).await;
            }
            () = life.stopping() => return,
        }
    }
}

/// Reads announced changes, and tries again until they are read.
async fn read_announced(accounts: Accounts, life: Lifecycle) {
    let inner = &accounts.inner;
    let mut pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let reading = async {
        loop {
            let rows = inner.unread.take(CHUNK).await;
            let (keys, known) = inner.in_memory(&rows).await;
            let is_read = inner.reread("announced changes", &keys, &known).await;
            if !is_read {
                inner.unread.note(rows);
            }
            inner.metrics.unread.set(inner.unread.len());
            inner.reading_fails.send_replace(!is_read);
            match is_read {
                true => pauses.reset(),
                false => tokio::time::sleep(pauses.next_delay()).await,
            }
        }
    };
    life.token().run_until_cancelled(reading).await;
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

    /// Has everything read again soon.
    pub(super) fn refresh_all_soon(&self) {
        self.inner.missed.notify_one();
    }

    /// Notes an announced change of these keys and accounts. From now on none of them is served before it was read again. Does not
    /// wait for PostgreSQL.
    pub async fn changed(&self, keys: &[KeyId], accounts: &[AccountId]) {
        let inner = &self.inner;
        // First: a key that is being loaded is not found here. When it is in the cache, the load compares this number.
        inner.heard.fetch_add(1, Ordering::SeqCst);
        let mut rows = Vec::new();
        for known in accounts.iter().filter_map(|id| inner.counters.known(*id)) {
            known.account.doubt.raise();
            // Also for accounts whose rows did not change: the announced change may make a remembered refusal wrong.
            known.void_refusals();
            rows.push(Row::Account(known.account.id));
        }
        for id in keys {
            inner.unknown.invalidate(id).await;
            if let Some(key) = inner.keys.get(id).await {
                key.shared.doubt.raise();
                rows.push(Row::Key(*id));
            }
        }
        inner.unread.note(rows);
    }
}

impl Inner {
    /// Those of the rows that are in memory.
    async fn in_memory(&self, rows: &[Row]) -> (Vec<Arc<Key>>, Vec<Arc<AccountCounters>>) {
        let (mut keys, mut accounts) = (Vec::new(), Vec::new());
        for row in rows {
            match row {
                Row::Key(id) => keys.extend(self.keys.get(id).await),
                Row::Account(id) => accounts.extend(self.counters.known(*id)),
            }
        }
        (keys, accounts)
    }

    /// Reads these again. Rows that cannot be read now stay as they are until the next interval; then it returns `false`.
    async fn reread(&self, what: &str, keys: &[Arc<Key>], accounts: &[Arc<AccountCounters>]) -> bool {
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
            warn!(
                "cannot read {what} again; the cached rows stay in use, except those with an announced change: {error:#}"
            );
            return false;
        }
        true
    }

    async fn reread_keys(&self, keys: &[Arc<Key>]) -> anyhow::Result<()> {
        // One at a time, so that older rows never overwrite newer ones.
        let _permit = self.rereading.lock().await;
        let moments: Vec<_> = keys.iter().map(|key| key.shared.doubt.moment()).collect();
        let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        let rows = timeout(QUERY_DEADLINE, stored::keys(&self.pool, &ids)).await??;
        let rows: HashMap<KeyId, StoredKey> = rows.into_iter().map(|(id, _, stored)| (id, stored)).collect();
        for (key, moment) in keys.iter().zip(moments) {
            let stored = rows.get(&key.id);
            if stored.is_none_or(|stored| stored.revoked) {
                key.shared.ended.store(true, Ordering::Release);
            }
            if stored != Some(&key.stored) || !key.shared.doubt.is_settled() {
                self.replace(key, stored).await;
            }
            key.shared.doubt.settle(moment);
        }
        Ok(())
    }

    /// Puts the row into the cache, or removes the key that has no row any more. Does nothing if the cache has dropped the key, or
    /// loaded it again.
    async fn replace(&self, key: &Arc<Key>, stored: Option<&StoredKey>) {
        let entry = self.keys.entry(key.id);
        let replaced = entry.and_compute_with(|cached| {
            let cached = cached.map(|cached| cached.into_value());
            let cached = cached.filter(|cached| Arc::ptr_eq(&cached.shared, &key.shared));
            ready(match (cached, stored) {
                (Some(cached), Some(stored)) if cached.stored != *stored => Op::Put(Arc::new(Key {
                    id: key.id,
                    account: Arc::clone(&key.account),
                    counters: Arc::clone(&key.counters),
                    stored: *stored,
                    shared: Arc::clone(&key.shared),
                })),
                (Some(_), None) => Op::Remove,
                _ => Op::Nop,
            })
        });
        replaced.await;
    }

    async fn reread_accounts(&self, accounts: &[Arc<AccountCounters>]) -> anyhow::Result<()> {
        let _permit = self.rereading.lock().await;
        let moments: Vec<_> = accounts
            .iter()
            .map(|counters| counters.account.doubt.moment())
            .collect();
        let ids: Vec<AccountId> = accounts.iter().map(|counters| counters.account.id).collect();
        let read = stored::accounts(&self.pool, &self.versions, &ids, &self.catalogue);
        let rows = timeout(QUERY_DEADLINE, read).await??;
        let mut rows: HashMap<AccountId, Facts> = rows.into_iter().collect();
        for (counters, moment) in accounts.iter().zip(moments) {
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
            account.doubt.settle(moment);
        }
        Ok(())
    }
}

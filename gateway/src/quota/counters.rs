//! The counters of all accounts in memory, and which accounts hold or owe leases.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use schema::{AccountId, PoolType, UsageType};
use service::Lifecycle;
use tokio::sync::Notify;

use super::{counter::Counter, leases::requests::LeaseRequests};
use crate::accounts::account::Account;

/// An account with its counters. A cached key refers to it, so a request finds it with the key's look-up.
pub struct AccountCounters {
    pub account: Arc<Account>,
    /// Indexed by [`UsageType::index`].
    limited: Box<[Counter]>,
    /// The same, for usage under a spend cap. Most accounts have none.
    billed: OnceLock<Box<[Counter]>>,
    requests: Arc<LeaseRequests>,
}

pub(crate) struct Counters {
    requests: Arc<LeaseRequests>,
    /// One object for each account, as long as a key or a lease refers to it. Two objects would count separately.
    known: Mutex<HashMap<AccountId, Weak<AccountCounters>>>,
    /// Accounts that hold or owe leases. They stay here even if the cache forgets them, so that their units are given back.
    holders: Mutex<HashMap<AccountId, Arc<AccountCounters>>>,
    emptied: Notify,
}

/// The holders, under their lock.
pub(crate) struct Holders<'a> {
    counters: &'a Counters,
    accounts: MutexGuard<'a, HashMap<AccountId, Arc<AccountCounters>>>,
}

impl AccountCounters {
    pub(crate) fn new(account: Account, requests: &Arc<LeaseRequests>) -> Self {
        Self {
            limited: new_counters(&account, requests, PoolType::Limited),
            billed: OnceLock::new(),
            requests: Arc::clone(requests),
            account: Arc::new(account),
        }
    }

    pub(crate) fn counter(&self, pool: PoolType) -> &Counter {
        match pool {
            PoolType::Limited(usage_type) => &self.limited[usage_type.index()],
            PoolType::Billed(usage_type) => {
                let new = || new_counters(&self.account, &self.requests, PoolType::Billed);
                &self.billed.get_or_init(new)[usage_type.index()]
            }
        }
    }

    /// The counter, if anything ever used it.
    pub(crate) fn existing(&self, pool: PoolType) -> Option<&Counter> {
        match pool {
            PoolType::Limited(_) => Some(self.counter(pool)),
            PoolType::Billed(usage_type) => self.billed.get()?.get(usage_type.index()),
        }
    }

    /// Every counter with what it counts.
    pub(crate) fn each(&self) -> impl Iterator<Item = (PoolType, &Counter)> {
        let usage_types = || self.account.usage_types().iter().copied();
        let limited = usage_types().map(PoolType::Limited).zip(&self.limited);
        limited.chain(self.billed())
    }

    /// The counters of usage under a spend cap.
    pub(crate) fn billed(&self) -> impl Iterator<Item = (PoolType, &Counter)> {
        let usage_types = self.account.usage_types().iter().copied();
        usage_types
            .map(PoolType::Billed)
            .zip(self.billed.get().into_iter().flatten())
    }

    /// Forgets remembered refusals, because units may have come back somewhere.
    pub(crate) fn void_refusals(&self) {
        self.each().for_each(|(_, counter)| counter.refusals().void());
    }
}

impl Counters {
    pub(crate) fn new(requests: &Arc<LeaseRequests>) -> Arc<Self> {
        Arc::new(Self {
            requests: Arc::clone(requests),
            known: Mutex::default(),
            holders: Mutex::default(),
            emptied: Notify::new(),
        })
    }

    /// The account, if a key or a lease of it is in memory.
    pub(crate) fn known(&self, id: AccountId) -> Option<Arc<AccountCounters>> {
        lock(&self.known).get(&id)?.upgrade()
    }

    /// Returns all accounts in memory, and forgets those that nothing refers to any more.
    pub(crate) fn all_known(&self) -> Vec<Arc<AccountCounters>> {
        let mut known = Vec::new();
        lock(&self.known).retain(|_, account| {
            known.extend(account.upgrade());
            account.strong_count() > 0
        });
        known
    }

    /// Returns the account's only object: an existing one that another key uses, or a new one.
    pub(crate) fn share(&self, account: Account) -> Arc<AccountCounters> {
        let mut known = lock(&self.known);
        if let Some(shared) = known.get(&account.id).and_then(Weak::upgrade) {
            return shared;
        }
        let id = account.id;
        let counters = Arc::new(AccountCounters::new(account, &self.requests));
        known.insert(id, Arc::downgrade(&counters));
        counters
    }

    /// Locks the holders. Code that makes a counter hold something calls [`Holders::note`] under the same lock, so that no other
    /// code sees the account in between.
    pub(crate) fn holders(&self) -> Holders<'_> {
        Holders {
            counters: self,
            accounts: lock(&self.holders),
        }
    }

    pub(crate) fn all_holders(&self) -> Vec<Arc<AccountCounters>> {
        lock(&self.holders).values().cloned().collect()
    }

    /// Waits until no account holds or owes anything.
    pub(crate) async fn emptied(&self) {
        loop {
            let notified = self.emptied.notified();
            if lock(&self.holders).is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// Closes every counter that holds a lease, and gives its units back.
    pub(crate) fn close_all(&self) {
        for holder in self.all_holders() {
            holder.each().for_each(|(_, counter)| counter.close());
        }
    }

    /// Drops all leases without giving them back, because another service ended their run and settles it.
    pub(crate) fn abandon_all(&self) {
        let mut holders = lock(&self.holders);
        for holder in holders.values() {
            holder.each().for_each(|(_, counter)| counter.abandon());
        }
        holders.clear();
        drop(holders);
        self.emptied.notify_waiters();
    }

    /// Runs until the service stops. Gives back units of idle counters, and requests service again for counters that still owe
    /// units.
    pub(crate) async fn sweep(self: Arc<Self>, idle_after: Duration, life: Lifecycle) {
        let mut ticks = tokio::time::interval((idle_after / 4).max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.sweep_once(idle_after),
                () = life.stopping() => return,
            }
        }
    }

    /// Closes counters that spent nothing for `idle_after`.
    fn sweep_once(&self, idle_after: Duration) {
        let now = Instant::now();
        for holder in self.all_holders() {
            for (_, counter) in holder.each() {
                if counter.is_idle(now, idle_after) {
                    counter.close();
                } else if counter.owes() {
                    counter.request_service();
                }
            }
            self.holders().note(&holder);
        }
    }
}

impl Holders<'_> {
    /// Keeps the account if it holds or owes anything, and removes it otherwise.
    pub(crate) fn note(&mut self, holder: &Arc<AccountCounters>) {
        let id = holder.account.id;
        if holder.each().any(|(_, counter)| !counter.is_empty()) {
            self.accounts.entry(id).or_insert_with(|| Arc::clone(holder));
        } else {
            self.accounts.remove(&id);
            if self.accounts.is_empty() {
                self.counters.emptied.notify_waiters();
            }
        }
    }
}

fn new_counters(
    account: &Account,
    requests: &Arc<LeaseRequests>,
    pool: impl Fn(UsageType) -> PoolType,
) -> Box<[Counter]> {
    let usage_types = account.usage_types().iter();
    usage_types
        .map(|usage_type| Counter::new((account.id, pool(*usage_type)), requests))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

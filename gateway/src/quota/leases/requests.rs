//! The state that counters and the lease client share: the queue of counters that need service, the run that leases are taken
//! for, and whether PostgreSQL is available.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use schema::{AccountId, PoolType, RunId};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};

use crate::quota::{metrics::QuotaMetrics, recall::Returns};

pub(crate) type CounterId = (AccountId, PoolType);

pub(crate) struct LeaseRequests {
    /// Each counter is in the queue once, so the queue is at most as long as there are counters.
    queue: mpsc::UnboundedSender<CounterId>,
    run: Mutex<Option<RunId>>,
    lost: watch::Sender<Option<RunId>>,
    /// PostgreSQL is unavailable, so every request for a lease is refused at once.
    away: AtomicBool,
    draining: AtomicBool,
    permits: Semaphore,
    stale: Mutex<Vec<AccountId>>,
    stale_reported: Notify,
    /// Units that came back here, to be announced to other gateways.
    pub returns: Arc<Returns>,
    pub metrics: QuotaMetrics,
}

/// Maximum number of waiting requests for leases, over all counters.
const REQUESTS_MAX: usize = 4_096;
/// Maximum number of accounts that wait to be read again. Further accounts are read at the next refresh.
const STALE_MAX: usize = 1_024;

impl LeaseRequests {
    pub(crate) fn new(metrics: QuotaMetrics) -> (Arc<Self>, mpsc::UnboundedReceiver<CounterId>) {
        let (queue, counters) = mpsc::unbounded_channel();
        let requests = Self {
            queue,
            run: Mutex::new(None),
            lost: watch::Sender::new(None),
            away: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            permits: Semaphore::new(REQUESTS_MAX),
            stale: Mutex::default(),
            stale_reported: Notify::new(),
            returns: Arc::default(),
            metrics,
        };
        (Arc::new(requests), counters)
    }

    /// Returns a permit to ask for a lease. `None`: there is no run, the gateway stops, PostgreSQL is unavailable, or too many requests
    /// wait.
    pub(crate) fn permit(&self) -> Option<SemaphorePermit<'_>> {
        if self.run().is_none() || self.is_draining() || self.is_away() {
            return None;
        }
        self.permits.try_acquire().ok()
    }

    pub(crate) fn enqueue(&self, counter: CounterId) {
        // It fails only after the lease client ended. Then all units were given back, or the deadline passed and settling
        // returns the rest.
        self.queue.send(counter).ok();
    }

    pub(crate) fn run(&self) -> Option<RunId> {
        *lock(&self.run)
    }

    /// Takes leases for this run from now on. `None`: takes no leases.
    pub(crate) fn set_run(&self, run: Option<RunId>) {
        *lock(&self.run) = run;
    }

    /// Reports that the run is no longer active in PostgreSQL.
    pub(crate) fn lose_run(&self, run: RunId) {
        let mut current = lock(&self.run);
        if *current == Some(run) {
            *current = None;
            drop(current);
            self.lost.send_replace(Some(run));
        }
    }

    pub(crate) fn run_lost(&self) -> watch::Receiver<Option<RunId>> {
        self.lost.subscribe()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// From now on no lease is requested, and a lease that arrives is not kept.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Records whether PostgreSQL is unavailable. The lease client calls this.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Release);
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Reports that PostgreSQL has another state of the account than this gateway, so that it is read again soon.
    pub(crate) fn report_stale(&self, account: AccountId) {
        let mut stale = lock(&self.stale);
        if stale.len() < STALE_MAX && !stale.contains(&account) {
            stale.push(account);
            self.stale_reported.notify_one();
        }
    }

    /// Waits for accounts that have to be read again.
    pub(crate) async fn stale(&self) -> Vec<AccountId> {
        loop {
            let stale = std::mem::take(&mut *lock(&self.stale));
            if !stale.is_empty() {
                return stale;
            }
            self.stale_reported.notified().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

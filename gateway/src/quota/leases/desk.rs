//! Where counters leave questions and debts for the broker, which accounts hold leases, and for which run.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use schema::{AccountId, RunId, UsageType};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::{Answer, Ask};
use crate::{
    accounts::account::{Account, State},
    quota::{counter::Counter, decision_metrics::QuotaMetrics, recall::Returns},
};

/// A counter that has something for the broker. Each is in the queue once, so the queue is as long as there are counters.
pub(crate) type Attention = (Arc<Account>, UsageType);

pub(crate) struct Desk {
    inbox: mpsc::UnboundedSender<Attention>,
    /// Accounts that hold or owe leases: whatever the caches forget, what they hold is given back.
    holders: Mutex<HashMap<AccountId, Arc<Account>>>,
    emptied: Notify,
    run: Mutex<Option<RunId>>,
    lost: watch::Sender<Option<RunId>>,
    /// Postgres is away: every question is answered at once.
    away: AtomicBool,
    draining: AtomicBool,
    questions: Semaphore,
    stale: Mutex<Vec<Arc<Account>>>,
    stale_reported: Notify,
    /// What came back here, for other gateways to hear of.
    pub returns: Returns,
    pub metrics: QuotaMetrics,
}

/// Questions that may wait for the broker at the same time, whatever their counters.
const QUESTIONS_MAX: usize = 4_096;
/// Accounts that wait to be read again; one that finds no place is read with all the others.
const STALE_MAX: usize = 1_024;

impl Desk {
    pub fn new(metrics: QuotaMetrics) -> (Arc<Self>, mpsc::UnboundedReceiver<Attention>) {
        let (inbox, attentions) = mpsc::unbounded_channel();
        let desk = Self {
            inbox,
            holders: Mutex::default(),
            emptied: Notify::new(),
            run: Mutex::new(None),
            lost: watch::Sender::new(None),
            away: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            questions: Semaphore::new(QUESTIONS_MAX),
            stale: Mutex::default(),
            stale_reported: Notify::new(),
            returns: Returns::default(),
            metrics,
        };
        (Arc::new(desk), attentions)
    }

    /// Asks Postgres for units. Answers at once where asking cannot help: no run, stopping, Postgres away, too many ask.
    pub async fn ask(
        &self,
        account: &Arc<Account>,
        usage_type: UsageType,
        state: &Arc<State>,
        cost: i64,
        surrender: bool,
    ) -> Answer {
        if self.run().is_none() || self.is_draining() || self.is_away() {
            return Answer::Unavailable;
        }
        let Ok(_question) = self.questions.try_acquire() else {
            return Answer::Unavailable;
        };
        let (reply, answer) = oneshot::channel();
        account.counter(usage_type).ask(Ask {
            state: Arc::clone(state),
            cost,
            surrender,
            reply,
        });
        self.attend(account, usage_type);
        answer.await.unwrap_or(Answer::Unavailable)
    }

    /// The broker shall look at this counter.
    pub fn attend(&self, account: &Arc<Account>, usage_type: UsageType) {
        if account.counter(usage_type).enqueue() {
            // It fails only after the broker ended, with everything given back or at its deadline: settling does the rest.
            drop(self.inbox.send((Arc::clone(account), usage_type)));
        }
    }

    /// A request ended without spending what it had reserved. `closed`: nobody can spend it here any more.
    pub fn units_came_back(&self, account: &Arc<Account>, usage_type: UsageType, units: i64, closed: bool) {
        if account.counter(usage_type).units_came_back(units) {
            self.returns.note(account.id, usage_type, units);
        }
        if closed {
            self.attend(account, usage_type);
        }
    }

    /// Closes a counter and gives its leases back.
    pub fn close(&self, account: &Arc<Account>, usage_type: UsageType) {
        // Close the counter before giving units back: the other order admits the same unit twice.
        account.counter(usage_type).close();
        self.attend(account, usage_type);
    }

    pub fn run(&self) -> Option<RunId> {
        *lock(&self.run)
    }

    /// Leases may be taken for this run; what is held for another one is dropped.
    pub fn start_run(&self, run: RunId) {
        if self.run().is_some_and(|before| before != run) {
            self.drop_run();
        }
        *lock(&self.run) = Some(run);
    }

    pub fn drop_run(&self) {
        *lock(&self.run) = None;
        self.abandon_all();
    }

    /// Postgres says that the run is not live any more.
    pub fn lose_run(&self, run: RunId) {
        let mut current = lock(&self.run);
        if *current == Some(run) {
            *current = None;
            drop(current);
            self.lost.send_replace(Some(run));
        }
    }

    pub fn run_lost(&self) -> watch::Receiver<Option<RunId>> {
        self.lost.subscribe()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// From here on nothing is asked for and nothing that comes is kept.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether Postgres answers, as the broker finds out.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Release);
    }

    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Postgres knows another state of the account than we do: it shall be read again soon.
    pub fn report_stale(&self, account: &Arc<Account>) {
        let mut stale = lock(&self.stale);
        if stale.len() < STALE_MAX && !stale.iter().any(|known| known.id == account.id) {
            stale.push(Arc::clone(account));
            self.stale_reported.notify_one();
        }
    }

    /// Waits for accounts that shall be read again.
    pub async fn stale(&self) -> Vec<Arc<Account>> {
        loop {
            let stale = std::mem::take(&mut *lock(&self.stale));
            if !stale.is_empty() {
                return stale;
            }
            self.stale_reported.notified().await;
        }
    }

    /// Holders, under their lock: whoever makes a counter hold something registers its account in the same breath, so that
    /// no sweep passes between.
    pub fn holders(&self) -> Holders<'_> {
        Holders {
            desk: self,
            accounts: lock(&self.holders),
        }
    }

    pub fn all_holders(&self) -> Vec<Arc<Account>> {
        lock(&self.holders).values().cloned().collect()
    }

    /// Waits until nothing is held and nothing is owed.
    pub async fn emptied(&self) {
        loop {
            let notified = self.emptied.notified();
            if lock(&self.holders).is_empty() {
                return;
            }
            notified.await;
        }
    }

    fn abandon_all(&self) {
        let mut holders = lock(&self.holders);
        for account in holders.values() {
            account.counters().for_each(|(_, counter)| counter.abandon());
        }
        holders.clear();
        drop(holders);
        self.emptied.notify_waiters();
    }
}

pub(crate) struct Holders<'a> {
    desk: &'a Desk,
    accounts: MutexGuard<'a, HashMap<AccountId, Arc<Account>>>,
}

impl Holders<'_> {
    /// Keeps the account if it holds or owes anything, and lets it go otherwise.
    pub fn note(&mut self, account: &Arc<Account>) {
        if account
            .counters()
            .any(|(_, counter): (_, &Counter)| !counter.is_empty())
        {
            self.accounts.entry(account.id).or_insert_with(|| Arc::clone(account));
        } else {
            self.accounts.remove(&account.id);
            if self.accounts.is_empty() {
                self.desk.emptied.notify_waiters();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

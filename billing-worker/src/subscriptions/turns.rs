//! Turns to hold a subscription's lock, and with it a connection to the database, while Stripe is asked. A Stripe that hangs
//! must not take all connections, one account not all turns, and those who ask not those of who works by itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use schema::AccountId;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::administration::By;

/// So many of the database's connections may wait for Stripe.
pub const TURNS: usize = 4;
/// Those that serve who does not wait for Stripe.
pub const CONNECTIONS_BESIDE: usize = 4;

/// So many may ask for the turn of one account at a time: they are seen through though their callers hang up.
const ASKERS_MAX: usize = 32;

/// How long somebody waits for a turn, and the service itself: two others may be ahead of it.
const PATIENCE: Duration = Duration::from_secs(10);
const OWN_PATIENCE: Duration = Duration::from_secs(60);

/// Cheap to clone; all clones share the turns.
#[derive(Clone)]
pub struct Turns {
    inner: Arc<Inner>,
}

struct Inner {
    all: Arc<Semaphore>,
    /// Of those who wait for an answer, and of what the service does by itself: neither has all.
    asked: Arc<Semaphore>,
    unasked: Arc<Semaphore>,
    /// Accounts that have a turn, or wait for one: each has one at a time, and waits for it outside of the turns.
    accounts: Mutex<HashMap<AccountId, Weak<Account>>>,
    patience: Duration,
    own_patience: Duration,
}

#[derive(Default)]
struct Account {
    turn: Arc<AsyncMutex<()>>,
    /// Of those who ask for an answer one at a time is in the queue for the turn: what the service does by itself comes after
    /// two others at the most, however many ask.
    gate: AsyncMutex<()>,
}

/// Dropped, it is the next one's.
pub struct Turn {
    _permits: [OwnedSemaphorePermit; 2],
    _turn: OwnedMutexGuard<()>,
    _account: Arc<Account>,
}

impl Default for Turns {
    fn default() -> Self {
        Self::new(TURNS, PATIENCE, OWN_PATIENCE)
    }
}

impl Turns {
    fn new(turns: usize, patience: Duration, own_patience: Duration) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            inner: Arc::new(Inner {
                all: semaphore(turns),
                asked: semaphore(turns - 1),
                unasked: semaphore(turns - 1),
                accounts: Mutex::default(),
                patience,
                own_patience,
            }),
        }
    }

    /// `None`: others have them for too long.
    pub async fn take(&self, account: AccountId, by: By) -> Option<Turn> {
        let inner = &self.inner;
        let (side, asks) = match by {
            By::Customer | By::AdminApi | By::Command => (&inner.asked, true),
            By::Service | By::Stripe => (&inner.unasked, false),
        };
        let account = self.of(account);
        if asks && Arc::strong_count(&account) > ASKERS_MAX {
            return None;
        }
        let taken = async {
            let gate = match asks {
                true => Some(account.gate.lock().await),
                false => None,
            };
            let turn = Arc::clone(&account.turn).lock_owned().await;
            drop(gate);
            let side = Arc::clone(side).acquire_owned().await.ok()?;
            let one = Arc::clone(&inner.all).acquire_owned().await.ok()?;
            Some(Turn {
                _permits: [side, one],
                _turn: turn,
                _account: Arc::clone(&account),
            })
        };
        let patience = if asks { inner.patience } else { inner.own_patience };
        timeout(patience, taken).await.ok().flatten()
    }

    /// Nobody who asks is given one any more.
    pub fn stop(&self) {
        self.inner.asked.close();
    }

    fn of(&self, account: AccountId) -> Arc<Account> {
        let mut accounts = self.inner.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as wait or work: few.
        accounts.retain(|_, account| account.strong_count() > 0);
        let known = accounts.get(&account).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let new = Arc::new(Account::default());
            accounts.insert(account, Arc::downgrade(&new));
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Turns {
        Turns::new(TURNS, Duration::from_millis(20), Duration::from_millis(20))
    }

    #[tokio::test]
    async fn an_account_has_one_turn_whoever_asks_for_it() {
        let (turns, ada) = (turns(), AccountId::new());
        let first = turns.take(ada, By::Customer).await.unwrap();
        for by in [By::Customer, By::Stripe] {
            assert!(turns.take(ada, by).await.is_none());
        }
        let others = [AccountId::new(), AccountId::new()].map(|account| turns.take(account, By::Customer));
        let others = futures_util::future::join_all(others).await;
        assert!(others.iter().all(Option::is_some), "they do not wait behind it");
        drop(first);
        assert!(turns.take(ada, By::Stripe).await.is_some());
        assert_eq!(turns.inner.accounts.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn who_asks_again_and_again_does_not_keep_the_service_from_its_turn() {
        let (turns, ada) = (Turns::default(), AccountId::new());
        let first = turns.take(ada, By::Customer).await.unwrap();
        // One has it.
        let mut asking: Vec<_> = (0..ASKERS_MAX - 1)
            .map(|_| Box::pin(turns.take(ada, By::Customer)))
            .collect();
        for one in &mut asking {
            assert!(futures_util::poll!(one).is_pending());
        }
        assert!(turns.take(ada, By::Customer).await.is_none(), "no more may wait");
        let mut service = Box::pin(turns.take(ada, By::Stripe));
        assert!(futures_util::poll!(&mut service).is_pending());
        drop(first);
        // One of them was in the queue before it.
        drop(asking.remove(0).await.unwrap());
        assert!(service.await.is_some());
    }

    #[tokio::test]
    async fn who_asks_while_the_service_stops_is_given_none() {
        let (turns, ada) = (Turns::default(), AccountId::new());
        let first = turns.take(ada, By::Customer).await.unwrap();
        let mut second = Box::pin(turns.take(ada, By::Customer));
        assert!(futures_util::poll!(&mut second).is_pending());
        turns.stop();
        drop(first);
        assert!(second.await.is_none());
        assert!(turns.take(ada, By::Stripe).await.is_some());
    }

    #[tokio::test]
    async fn neither_side_takes_the_last_turn_from_the_other() {
        for (greedy, other) in [(By::Customer, By::Stripe), (By::Stripe, By::Customer)] {
            let turns = turns();
            let mut taken = Vec::new();
            while let Some(turn) = turns.take(AccountId::new(), greedy).await {
                taken.push(turn);
            }
            assert_eq!(taken.len(), TURNS - 1);
            assert!(turns.take(AccountId::new(), other).await.is_some());
        }
    }
}

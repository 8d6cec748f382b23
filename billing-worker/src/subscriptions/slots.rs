//! Slots for work with Stripe in this worker. One account uses one at a time and waits for it in its own queue; callers who wait
//! for an answer and the service's own work never take each other's last slot.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use schema::AccountId;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::administration::By;

/// How many accounts this worker processes with Stripe at the same time. A slot holds no database connection while Stripe is
/// asked, so slow calls for a few accounts do not block the others.
const SLOTS: usize = 32;
/// Slots that one side, callers or the service, may use at most. A quarter of all slots is left to the other side.
pub const SLOTS_OF_A_SIDE: usize = 24;

/// Callers that may wait for one account at a time: their work is done even if they hang up.
const CALLERS_MAX: usize = 32;

/// How long a caller waits for the account, its lease and a slot. The service waits longer: two others may be ahead of it.
const PATIENCE: Duration = Duration::from_secs(10);
const OWN_PATIENCE: Duration = Duration::from_secs(60);

/// Cheap to clone; all clones share the slots.
#[derive(Clone)]
pub struct Slots {
    inner: Arc<Inner>,
}

struct Inner {
    all: Arc<Semaphore>,
    callers: Arc<Semaphore>,
    own: Arc<Semaphore>,
    /// Accounts that are worked on, or wait for it.
    accounts: Mutex<HashMap<AccountId, Weak<Account>>>,
}

#[derive(Default)]
struct Account {
    queue: Arc<AsyncMutex<()>>,
    /// Only one caller at a time is in the queue, so the service's own work has at most two others ahead of it.
    gate: AsyncMutex<()>,
}

/// The position at the head of the account's queue. When it is dropped, the next one moves up.
pub struct Position {
    slots: Slots,
    by: By,
    queue: OwnedMutexGuard<()>,
    account: Arc<Account>,
}

/// Permission to work on an account with Stripe. When it is dropped, the next one gets it.
pub struct Slot {
    _permits: [OwnedSemaphorePermit; 2],
    _queue: OwnedMutexGuard<()>,
    _account: Arc<Account>,
}

impl Default for Slots {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            inner: Arc::new(Inner {
                all: semaphore(SLOTS),
                callers: semaphore(SLOTS_OF_A_SIDE),
                own: semaphore(SLOTS_OF_A_SIDE),
                accounts: Mutex::default(),
            }),
        }
    }
}

impl Slots {
    /// How long `by` waits for an account.
    pub fn patience(by: By) -> Duration {
        if is_caller(by) { PATIENCE } else { OWN_PATIENCE }
    }

    /// Waits in the account's queue; not for a slot yet. `None`: too many callers wait.
    pub async fn queue(&self, account: AccountId, by: By) -> Option<Position> {
        let account = self.of(account);
        if is_caller(by) && Arc::strong_count(&account) > CALLERS_MAX {
            return None;
        }
        let gate = match is_caller(by) {
            true => Some(account.gate.lock().await),
            false => None,
        };
        let queue = Arc::clone(&account.queue).lock_owned().await;
        drop(gate);
        Some(Position {
            slots: self.clone(),
            by,
            queue,
            account,
        })
    }

    /// From now on no caller gets a slot.
    pub fn stop(&self) {
        self.inner.callers.close();
    }

    fn of(&self, account: AccountId) -> Arc<Account> {
        let mut accounts = self.inner.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        // Short: it has only accounts that are in use or waited for.
        accounts.retain(|_, account| account.strong_count() > 0);
        let known = accounts.get(&account).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let new = Arc::new(Account::default());
            accounts.insert(account, Arc::downgrade(&new));
            new
        })
    }
}

impl Position {
    /// Waits for a slot. `None`: the service stops, and a caller gets none.
    pub async fn slot(self) -> Option<Slot> {
        let inner = &self.slots.inner;
        let side = if is_caller(self.by) { &inner.callers } else { &inner.own };
        let side = Arc::clone(side).acquire_owned().await.ok()?;
        let one = Arc::clone(&inner.all).acquire_owned().await.ok()?;
        Some(Slot {
            _permits: [side, one],
            _queue: self.queue,
            _account: self.account,
        })
    }
}

/// Waits for an answer, unlike the service's own work.
fn is_caller(by: By) -> bool {
    match by {
        By::Customer | By::AdminApi | By::Command => true,
        By::Service | By::Stripe => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    async fn take(slots: &Slots, account: AccountId, by: By) -> Option<Slot> {
        slots.queue(account, by).await?.slot().await
    }

    async fn take_soon(slots: &Slots, account: AccountId, by: By) -> Option<Slot> {
        let taken = timeout(Duration::from_millis(20), take(slots, account, by)).await;
        taken.ok().flatten()
    }

    #[tokio::test]
    async fn each_account_has_one_slot_for_all_callers() {
        let (slots, ada) = (Slots::default(), AccountId::new());
        let first = take_soon(&slots, ada, By::Customer).await.unwrap();
        for by in [By::Customer, By::Stripe] {
            assert!(take_soon(&slots, ada, by).await.is_none());
        }
        let others = [AccountId::new(), AccountId::new()].map(|account| take(&slots, account, By::Customer));
        let others = futures_util::future::join_all(others).await;
        assert!(others.iter().all(Option::is_some), "they do not wait behind it");
        drop(first);
        assert!(take(&slots, ada, By::Stripe).await.is_some());
        assert_eq!(slots.inner.accounts.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn callers_that_ask_again_and_again_do_not_keep_the_service_from_its_slot() {
        let (slots, ada) = (Slots::default(), AccountId::new());
        let first = take(&slots, ada, By::Customer).await.unwrap();
        // One has it.
        let mut asking: Vec<_> = (0..CALLERS_MAX - 1)
            .map(|_| Box::pin(take(&slots, ada, By::Customer)))
            .collect();
        for one in &mut asking {
            assert!(futures_util::poll!(one).is_pending());
        }
        assert!(take(&slots, ada, By::Customer).await.is_none(), "no more may wait");
        let mut service = Box::pin(take(&slots, ada, By::Stripe));
        assert!(futures_util::poll!(&mut service).is_pending());
        drop(first);
        // One of them was in the queue before it.
        drop(asking.remove(0).await.unwrap());
        assert!(service.await.is_some());
    }

    #[tokio::test]
    async fn a_caller_that_asks_while_the_service_stops_gets_none() {
        let (slots, ada) = (Slots::default(), AccountId::new());
        let first = take(&slots, ada, By::Customer).await.unwrap();
        let mut second = Box::pin(take(&slots, ada, By::Customer));
        assert!(futures_util::poll!(&mut second).is_pending());
        slots.stop();
        drop(first);
        assert!(second.await.is_none());
        assert!(take(&slots, ada, By::Stripe).await.is_some());
    }

    #[tokio::test]
    async fn neither_side_takes_the_last_slot_from_the_other() {
        for (greedy, other) in [(By::Customer, By::Stripe), (By::Stripe, By::Customer)] {
            let slots = Slots::default();
            let mut taken = Vec::new();
            while let Some(slot) = take_soon(&slots, AccountId::new(), greedy).await {
                taken.push(slot);
            }
            assert_eq!(taken.len(), SLOTS_OF_A_SIDE);
            assert!(take(&slots, AccountId::new(), other).await.is_some());
        }
    }
}

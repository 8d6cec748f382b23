//! An account's lease: one worker at a time reads and changes the account's subscriptions in Stripe.
//!
//! The lease is a row with a deadline in the database's time. No transaction is open while Stripe is asked. The holder renews
//! the lease while it works. The transaction that stores the result checks the holder first and fails if another has taken over.
//! The lease of a dead worker expires after [`LENGTH_S`].

use std::time::Duration;

use schema::AccountId;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::warn;
use uuid::Uuid;

use super::slots::Slot;
use crate::error::Error;

/// Two renewals may fail before another takes over. Longer than one attempt of a call to Stripe (`STRIPE_TIMEOUT`, 20 s by
/// default): a call that begins right after [`Lease::renew`] ends while the lease is held.
const LENGTH_S: i32 = 30;
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// Between two attempts to take a lease that another holds.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// If it is dropped, it is released a moment later. [`Self::release`] waits for that.
pub struct Lease {
    account: AccountId,
    holder: Uuid,
    db: PgPool,
    keeper: Option<(DropGuard, JoinHandle<()>)>,
    slot: Option<Slot>,
}

impl Lease {
    /// Takes the account's lease; waits up to `patience` while another holds it. `keepers` renew it and release it.
    pub(super) async fn take(
        db: &PgPool,
        keepers: &TaskTracker,
        account: AccountId,
        patience: Duration,
    ) -> Result<Self, Error> {
        let (holder, dropped) = (Uuid::new_v4(), CancellationToken::new());
        let (answer, taken) = oneshot::channel();
        // PostgreSQL may still execute a statement whose caller has gone: the keeper takes the lease, so that somebody releases it.
        let keeper = keepers.spawn({
            let (db, dropped) = (db.clone(), dropped.clone());
            async move {
                let attempt = ask(&db, account, holder, patience, &dropped).await;
                let is_taken = attempt.is_ok();
                answer.send(attempt).ok();
                if is_taken {
                    keep(&db, account, holder, dropped).await;
                }
                let_go(&db, account, holder).await;
            }
        });
        let keeper = Some((dropped.drop_guard(), keeper));
        taken.await.map_err(|_| Error::LeaseLost)??;
        Ok(Self {
            account,
            holder,
            db: db.clone(),
            keeper,
            slot: None,
        })
    }

    /// The slot becomes free when the lease is released.
    pub(super) fn with(mut self, slot: Slot) -> Self {
        self.slot = Some(slot);
        self
    }

    pub fn account(&self) -> AccountId {
        self.account
    }

    /// A transaction that stores a result. While it is open, no other worker can take the lease. Fails if another worker has it.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let mut tx = self.db.begin().await?;
        // A worker that is paused in this transaction must not keep the row from others.
        sqlx::query!(
            "select holder, set_config('idle_in_transaction_session_timeout', '5000', true) as idle_timeout
             from subscription_leases where account_id = $1 and holder = $2 for update",
            self.account.0,
            self.holder
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(Error::LeaseLost)?;
        Ok(tx)
    }

    /// Before a call that creates or charges something: makes sure that the lease is still ours, for its whole length from now.
    pub async fn renew(&self) -> Result<(), Error> {
        match renew(&self.db, self.account, self.holder).await? {
            true => Ok(()),
            false => Err(Error::LeaseLost),
        }
    }

    /// Gives the lease back, and the slot.
    pub async fn release(mut self) {
        if let Some((dropped, keeper)) = self.keeper.take() {
            drop(dropped);
            keeper.await.ok();
        }
    }
}

/// A transaction that holds the account's lease from its begin to its commit: for a writer that calls no other system.
pub struct LeasedTransaction {
    pub tx: Transaction<'static, Postgres>,
    account: AccountId,
    holder: Uuid,
}

impl LeasedTransaction {
    /// Waits up to `patience` while another holds the lease.
    pub async fn begin(db: &PgPool, account: AccountId, patience: Duration) -> Result<Self, Error> {
        let (holder, mut asking) = (Uuid::new_v4(), Asking::new(patience));
        loop {
            let mut tx = db.begin().await?;
            if try_to_take(&mut tx, account, holder).await? {
                return Ok(Self { tx, account, holder });
            }
            tx.rollback().await?;
            asking.pause().await?;
        }
    }

    pub async fn commit(mut self) -> Result<(), Error> {
        release(&mut self.tx, self.account, self.holder).await?;
        Ok(self.tx.commit().await?)
    }
}

/// Waits between attempts to take a lease that another holds.
struct Asking {
    began: Instant,
    pause: Duration,
    patience: Duration,
}

impl Asking {
    fn new(patience: Duration) -> Self {
        Self {
            began: Instant::now(),
            pause: PAUSE_FIRST,
            patience,
        }
    }

    async fn pause(&mut self) -> Result<(), Error> {
        if self.began.elapsed() >= self.patience {
            return Err(Error::NoSlot);
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Asks for the lease until it is ours. Ends early if the caller has gone.
async fn ask(
    db: &PgPool,
    account: AccountId,
    holder: Uuid,
    patience: Duration,
    dropped: &CancellationToken,
) -> Result<(), Error> {
    let mut asking = Asking::new(patience);
    while !try_to_take(&mut *db.acquire().await?, account, holder).await? {
        asking.pause().await?;
        if dropped.is_cancelled() {
            return Err(Error::NoSlot);
        }
    }
    Ok(())
}

/// `false`: another holds it.
async fn try_to_take(db: &mut PgConnection, account: AccountId, holder: Uuid) -> Result<bool, Error> {
    let taken = sqlx::query!(
        "insert into subscription_leases as l (account_id, holder, held_until)
         select id, $2, now() + make_interval(secs => $3) from accounts where id = $1
         on conflict (account_id) do update set holder = excluded.holder, held_until = excluded.held_until, taken_at = now()
             where l.held_until <= now()",
        account.0,
        holder,
        f64::from(LENGTH_S)
    )
    .execute(&mut *db)
    .await?;
    if taken.rows_affected() > 0 {
        return Ok(true);
    }
    let known = sqlx::query_scalar!("select id from accounts where id = $1", account.0);
    match known.fetch_optional(db).await? {
        Some(_) => Ok(false),
        None => Err(Error::UnknownAccount(account.to_string())),
    }
}

/// Renews the lease until it is dropped or lost.
async fn keep(db: &PgPool, account: AccountId, holder: Uuid, dropped: CancellationToken) {
    loop {
        tokio::select! {
            () = dropped.cancelled() => return,
            () = sleep(RENEW_EVERY) => {}
        }
        match timeout(RENEW_EVERY, renew(db, account, holder)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                warn!(account.id = %account, "another worker took over the account's lease: only its results are stored");
                return;
            }
            Ok(Err(failure)) => warn!(account.id = %account, "could not renew the account's lease: {failure}"),
            Err(_) => warn!(account.id = %account, "could not renew the account's lease within {RENEW_EVERY:?}"),
        }
    }
}

/// Releases the lease, if it is ours.
async fn let_go(db: &PgPool, account: AccountId, holder: Uuid) {
    let released = async { release(&mut *db.acquire().await?, account, holder).await };
    match timeout(RENEW_EVERY, released).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => {
            warn!(account.id = %account, "could not release the account's lease, it ends in {LENGTH_S} s: {failure}")
        }
        Err(_) => warn!(account.id = %account, "could not release the account's lease, it ends in {LENGTH_S} s"),
    }
}

/// `false`: another has taken it.
async fn renew(db: &PgPool, account: AccountId, holder: Uuid) -> Result<bool, Error> {
    let renewed = sqlx::query!(
        "update subscription_leases set held_until = now() + make_interval(secs => $3) where account_id = $1 and holder = $2",
        account.0,
        holder,
        f64::from(LENGTH_S)
    )
    .execute(db)
    .await?;
    Ok(renewed.rows_affected() > 0)
}

async fn release(db: &mut PgConnection, account: AccountId, holder: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "delete from subscription_leases where account_id = $1 and holder = $2",
        account.0,
        holder
    )
    .execute(db)
    .await?;
    Ok(())
}

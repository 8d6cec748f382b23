//! Copies the limits in force into the quota pools, from which gateways take their leases.
//!
//! No clock decides which pools get a new limit. The worker's clock and the gateways' clocks can differ, so each period that a
//! gateway may be in is open: those to come, too, because a gateway whose clock is ahead has opened them.

use std::time::Duration;

use quota_store::{
    limits as stored_limits,
    pools::{self, PoolKey},
};
use schema::{AccountId, Catalogue, CurrentPlan, announcement::Announcement};
use sqlx::{Postgres, Transaction};

use crate::{administration::Administration, error::Error, subscriptions::current};

/// [`refresh`] leaves out periods that ended longer ago, by the database's clock, because it reads the pools of all accounts. No
/// gateway is so far behind.
const ENDED_WITHIN: Duration = Duration::from_secs(7 * 86_400);

/// Writes the limits in force into all pools of the accounts. Returns the accounts whose pools changed. The caller holds the
/// accounts' locks, and announces the changes after its commit.
///
/// `now`: which of two plans decides, if one ends within the period of the other ([`CurrentPlan::in_period`]).
pub async fn apply(
    tx: &mut Transaction<'_, Postgres>,
    catalogue: &Catalogue,
    accounts: &[AccountId],
    now: i64,
) -> Result<Vec<AccountId>, Error> {
    let outdated = outdated(tx, catalogue, accounts, None, now).await?;
    write(tx, outdated).await
}

/// Updates the pools of all accounts after the catalogue changed. Returns how many accounts changed. It may be interrupted at any
/// time; the next call does the rest.
pub async fn refresh(admin: &Administration, now: i64) -> Result<usize, Error> {
    const ACCOUNTS_A_PAGE: i64 = 500;
    let (mut after, mut changed) = (AccountId::NIL, 0);
    loop {
        let page = pools::accounts_with_pools(&admin.db, after, ENDED_WITHIN, ACCOUNTS_A_PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(changed);
        };
        after = *last;
        changed += refresh_page(admin, &page, now).await?;
    }
}

async fn refresh_page(admin: &Administration, accounts: &[AccountId], now: i64) -> Result<usize, Error> {
    let mut tx = admin.db.begin().await?;
    let mut ids: Vec<_> = outdated(&mut tx, &admin.catalogue, accounts, Some(ENDED_WITHIN), now)
        .await?
        .iter()
        .map(|row| row.pool.account.0)
        .collect();
    if ids.is_empty() {
        return Ok(0);
    }
    ids.dedup();
    // Lock in id order: two workers that start together then wait for each other instead of deadlocking.
    sqlx::query!(
        "select id from accounts where id = any($1) order by id for no key update",
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let locked: Vec<_> = ids.into_iter().map(AccountId).collect();
    let outdated = outdated(&mut tx, &admin.catalogue, &locked, Some(ENDED_WITHIN), now).await?;
    let changed = write(&mut tx, outdated).await?;
    tx.commit().await?;
    announce(admin, &changed).await;
    Ok(changed.len())
}

/// A pool whose limit is not the one in force.
struct Outdated {
    pool: PoolKey,
    limit: i64,
}

/// Sorted by account.
async fn outdated(
    tx: &mut Transaction<'_, Postgres>,
    catalogue: &Catalogue,
    accounts: &[AccountId],
    ended_within: Option<Duration>,
    now: i64,
) -> Result<Vec<Outdated>, Error> {
    let current = current::subscriptions(&mut **tx, accounts).await?;
    let pools = stored_limits::limited(&mut **tx, accounts, ended_within).await?;
    let outdated = pools.into_iter().filter_map(|row| {
        let subscription = current.get(&row.account);
        // A period of an earlier plan: no gateway that knows the account's plan takes leases of it.
        let plan = CurrentPlan::in_period(subscription, row.period, now)?;
        // A usage type that is no longer in the catalogue keeps its last limit: no gateway asks for it.
        let usage_type = catalogue.usage_type(&row.usage_type)?;
        let limit = catalogue.terms(&plan, usage_type, row.agreed_units).limit;
        // The subscription is in a later period. Only a gateway whose clock is behind can still be in this one, so its limit only
        // falls.
        let is_over = subscription
            .is_some_and(|current| current.id == plan.subscription && row.period.start < current.period.start);
        let is_outdated = limit < row.limit_units || limit > row.limit_units && !is_over;
        is_outdated.then(|| Outdated { pool: row.key(), limit })
    });
    Ok(outdated.collect())
}

/// Returns the accounts of these pools.
async fn write(tx: &mut Transaction<'_, Postgres>, outdated: Vec<Outdated>) -> Result<Vec<AccountId>, Error> {
    if outdated.is_empty() {
        return Ok(Vec::new());
    }
    let mut changed: Vec<_> = outdated.iter().map(|row| row.pool.account).collect();
    changed.dedup();
    let limits: Vec<_> = outdated.into_iter().map(|row| (row.pool, row.limit)).collect();
    pools::set_limits(tx, &limits).await?;
    Ok(changed)
}

/// Announces that these accounts changed.
pub(super) async fn announce(admin: &Administration, accounts: &[AccountId]) {
    let changed = |account: &AccountId| Announcement::AccountChanged { account_id: *account };
    let announcements: Vec<_> = accounts.iter().map(changed).collect();
    admin.announcer.announce_all(&announcements).await;
}

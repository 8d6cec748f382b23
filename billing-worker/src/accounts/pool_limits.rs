//! Copies the limits in force into the quota pools, from which gateways take their leases.

use quota_store::{
    limits as stored_limits,
    pools::{self, PoolKey},
};
use schema::{AccountId, Catalogue, CurrentPlan, announcement::Announcement};
use sqlx::{Postgres, Transaction};

use crate::{administration::Administration, error::Error, subscriptions::current};

/// Writes the limits in force into the pools of the accounts' running periods. Returns the accounts whose pools changed. The
/// caller holds the accounts' locks, and announces the changes after its commit.
pub async fn apply(
    tx: &mut Transaction<'_, Postgres>,
    catalogue: &Catalogue,
    accounts: &[AccountId],
    now: i64,
) -> Result<Vec<AccountId>, Error> {
    let outdated = outdated(tx, catalogue, accounts, now).await?;
    if outdated.is_empty() {
        return Ok(Vec::new());
    }
    let limits: Vec<_> = outdated.iter().map(|row| (row.pool.clone(), row.limit)).collect();
    pools::set_limits(tx, &limits).await?;
    let mut changed: Vec<_> = outdated.iter().map(|row| row.pool.account).collect();
    changed.dedup();
    Ok(changed)
}

/// Updates every pool of a running period after the catalogue changed. Returns how many accounts changed. It may be
/// interrupted at any time; the next call does the rest.
pub async fn refresh(admin: &Administration, now: i64) -> Result<usize, Error> {
    const ACCOUNTS_A_PAGE: i64 = 500;
    let (mut after, mut changed) = (AccountId::NIL, 0);
    loop {
        let page = pools::accounts_with_pools(&admin.db, after, now, ACCOUNTS_A_PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(changed);
        };
        after = *last;
        changed += refresh_page(admin, &page, now).await?;
    }
}

async fn refresh_page(admin: &Administration, accounts: &[AccountId], now: i64) -> Result<usize, Error> {
    let mut tx = admin.db.begin().await?;
    let mut ids: Vec<_> = outdated(&mut tx, &admin.catalogue, accounts, now)
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
    let changed = apply(&mut tx, &admin.catalogue, &locked, now).await?;
    tx.commit().await?;
    announce(admin, &changed).await;
    Ok(changed.len())
}

/// A pool of a running period whose limit is not the one in force.
struct Outdated {
    pool: PoolKey,
    limit: i64,
}

/// Sorted by account.
async fn outdated(
    tx: &mut Transaction<'_, Postgres>,
    catalogue: &Catalogue,
    accounts: &[AccountId],
    now: i64,
) -> Result<Vec<Outdated>, Error> {
    let current = current::subscriptions(&mut **tx, accounts).await?;
    let running = stored_limits::running(&mut **tx, accounts, now).await?;
    let outdated = running.into_iter().filter_map(|row| {
        let current_plan = CurrentPlan::at(current.get(&row.key.account), now);
        // A usage type that is no longer in the catalogue keeps its last limit: no gateway asks for it.
        let usage_type = catalogue.usage_type(&row.key.usage_type)?;
        let limit = catalogue.terms(&current_plan, usage_type, row.agreed_units).limit;
        let is_outdated = row.key.period_start == current_plan.period.start && limit != row.limit_units;
        is_outdated.then_some(Outdated { pool: row.key, limit })
    });
    Ok(outdated.collect())
}

/// Announces that these accounts changed.
pub(super) async fn announce(admin: &Administration, accounts: &[AccountId]) {
    let changed = |account: &AccountId| Announcement::AccountChanged { account_id: *account };
    let announcements: Vec<_> = accounts.iter().map(changed).collect();
    admin.announcer.announce_all(&announcements).await;
}

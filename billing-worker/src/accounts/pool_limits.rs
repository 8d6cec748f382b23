//! Copies the limits in force into the quota pools, from which gateways take their leases.

use schema::{AccountId, Catalogue, Standing, UsageType, announcement::Announcement, period::instant};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::limits::limit;
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
    let ids: Vec<_> = outdated.iter().map(|row| row.account.0).collect();
    let usage_types: Vec<_> = outdated.iter().map(|row| row.usage_type.name().to_owned()).collect();
    let starts: Vec<_> = outdated.iter().map(|row| instant(row.period_start)).collect();
    let limits: Vec<_> = outdated.iter().map(|row| row.limit).collect();
    // Lock in key order, as all code that locks several pools does. Otherwise this and a grant for many counters could
    // deadlock.
    sqlx::query!(
        "select p.limit_units from quota_pool p
         join unnest($1::uuid[], $2::text[], $3::timestamptz[]) as n (account_id, usage_type, period_start)
              using (account_id, usage_type, period_start)
         order by p.account_id, p.usage_type, p.period_start for update of p",
        &ids,
        &usage_types,
        &starts
    )
    .fetch_all(&mut **tx)
    .await?;
    sqlx::query!(
        "update quota_pool p set limit_units = n.limit_units
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[])
              as n (account_id, usage_type, period_start, limit_units)
         where (p.account_id, p.usage_type, p.period_start) = (n.account_id, n.usage_type, n.period_start)",
        &ids,
        &usage_types,
        &starts,
        &limits
    )
    .execute(&mut **tx)
    .await?;
    let mut changed: Vec<_> = outdated.iter().map(|row| row.account).collect();
    changed.dedup();
    Ok(changed)
}

/// Updates every pool of a running period after the catalogue changed. Returns how many accounts changed. It may be
/// interrupted at any time; the next call does the rest.
pub async fn refresh(admin: &Administration, now: i64) -> Result<usize, Error> {
    const ACCOUNTS_A_PAGE: i64 = 500;
    let (mut after, mut changed) = (Uuid::nil(), 0);
    loop {
        let page = sqlx::query_scalar!(
            "select distinct account_id from quota_pool where account_id > $1 and period_end > $2
             order by account_id limit $3",
            after,
            instant(now),
            ACCOUNTS_A_PAGE
        )
        .fetch_all(&admin.db)
        .await?;
        let Some(last) = page.last() else {
            return Ok(changed);
        };
        after = *last;
        let accounts: Vec<_> = page.into_iter().map(AccountId).collect();
        changed += refresh_page(admin, &accounts, now).await?;
    }
}

async fn refresh_page(admin: &Administration, accounts: &[AccountId], now: i64) -> Result<usize, Error> {
    let mut tx = admin.db.begin().await?;
    let mut ids: Vec<_> = outdated(&mut tx, &admin.catalogue, accounts, now)
        .await?
        .iter()
        .map(|row| row.account.0)
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
    account: AccountId,
    usage_type: UsageType,
    period_start: i64,
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
    let ids: Vec<_> = accounts.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select p.account_id, p.usage_type, p.period_start, p.limit_units, o.limit_units as "override?"
           from quota_pool p
           left join limit_overrides o on o.account_id = p.account_id and o.usage_type = p.usage_type
           where p.account_id = any($1) and p.period_start <= $2 and p.period_end > $2
           order by p.account_id"#,
        &ids,
        instant(now)
    )
    .fetch_all(&mut **tx)
    .await?;
    let outdated = rows.into_iter().filter_map(|row| {
        let account = AccountId(row.account_id);
        let standing = Standing::at(current.get(&account), now);
        // A usage type that is no longer in the catalogue keeps its last limit: no gateway asks for it.
        let usage_type = catalogue.usage_type(&row.usage_type)?;
        let limit = limit(catalogue, &standing.plan, usage_type, row.r#override);
        let period_start = row.period_start.unix_timestamp();
        (period_start == standing.period.start && limit != row.limit_units).then_some(Outdated {
            account,
            usage_type,
            period_start,
            limit,
        })
    });
    Ok(outdated.collect())
}

/// Announces that these accounts changed.
pub(super) async fn announce(admin: &Administration, accounts: &[AccountId]) {
    let changed = |account: &AccountId| Announcement::AccountChanged { account_id: *account };
    let announcements: Vec<_> = accounts.iter().map(changed).collect();
    admin.announcer.announce_all(&announcements).await;
}

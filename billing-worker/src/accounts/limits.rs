//! Limits: what is in force for an account, overrides agreed with one account, and their copy in the pools that gateways
//! draw from.

use std::collections::HashMap;

use schema::{AccountId, Catalogue, Mode, Standing, UsageType, announcement::Announcement, period::instant};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{PgExecutor, Postgres, Transaction};
use tracing::info;
use uuid::Uuid;

use crate::{
    accounts::{self, AccountDetails},
    administration::{Administration, audit},
    error::Error,
    subscriptions,
};

/// Fifteen digits: what Stripe can be told of.
pub const UNITS_MAX: i64 = 999_999_999_999_999;

/// What is in force for one usage type in the running period.
#[derive(Clone, Debug, Serialize)]
pub struct LimitInForce {
    pub usage_type: &'static str,
    pub mode: &'static str,
    /// Units a period; `None`: there is no limit.
    pub limit: Option<i64>,
    /// The limit was agreed with this account; it takes the place of the plan's.
    pub overridden: bool,
    /// Spent, or held by gateways.
    pub granted_units: i64,
}

/// Agrees a limit with one account.
pub async fn set(
    admin: &Administration,
    account: AccountId,
    usage_type: &str,
    units: i64,
    now: i64,
) -> Result<AccountDetails, Error> {
    let usage_type = admin.usage_type(usage_type)?;
    if !(0..=UNITS_MAX).contains(&units) {
        return Err(Error::BadValue {
            field: "limit_units",
            rule: format!("is from 0 to {UNITS_MAX}"),
        });
    }
    let mut tx = admin.db.begin().await?;
    accounts::lock(&mut tx, account).await?;
    sqlx::query!(
        "insert into limit_overrides (account_id, usage_type, limit_units) values ($1, $2, $3)
         on conflict (account_id, usage_type) do update set limit_units = excluded.limit_units",
        account.0,
        usage_type.name(),
        units
    )
    .execute(&mut *tx)
    .await?;
    apply(&mut tx, &admin.catalogue, &[account], now).await?;
    record(
        &mut tx,
        admin,
        account,
        usage_type,
        "limit.set",
        json!({ "limit_units": units }),
    )
    .await?;
    tx.commit().await?;
    info!(account.id = %account, usage_type = usage_type.name(), units, by = %admin.by, "set a limit");
    announce(admin, &[account]).await;
    accounts::show(admin, account, now).await
}

/// Goes back to the plan's limit.
pub async fn clear(
    admin: &Administration,
    account: AccountId,
    usage_type: &str,
    now: i64,
) -> Result<AccountDetails, Error> {
    let usage_type = admin.usage_type(usage_type)?;
    let mut tx = admin.db.begin().await?;
    accounts::lock(&mut tx, account).await?;
    let cleared = sqlx::query!(
        "delete from limit_overrides where account_id = $1 and usage_type = $2",
        account.0,
        usage_type.name()
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    apply(&mut tx, &admin.catalogue, &[account], now).await?;
    if cleared > 0 {
        record(&mut tx, admin, account, usage_type, "limit.clear", json!({})).await?;
    }
    tx.commit().await?;
    if cleared > 0 {
        info!(account.id = %account, usage_type = usage_type.name(), by = %admin.by, "cleared a limit");
        announce(admin, &[account]).await;
    }
    accounts::show(admin, account, now).await
}

/// What is in force, in the catalogue's order.
pub async fn in_force(
    db: impl PgExecutor<'_>,
    catalogue: &Catalogue,
    account: AccountId,
    standing: &Standing,
) -> Result<Vec<LimitInForce>, Error> {
    let rows = sqlx::query!(
        r#"select t.usage_type as "usage_type!", o.limit_units as "override?", p.granted_units as "granted_units?"
           from unnest($2::text[]) as t (usage_type)
           left join limit_overrides o on o.account_id = $1 and o.usage_type = t.usage_type
           left join quota_pool p on p.account_id = $1 and p.usage_type = t.usage_type and p.period_start = $3"#,
        account.0,
        &catalogue
            .usage_types()
            .iter()
            .map(|known| known.name().to_owned())
            .collect::<Vec<_>>(),
        instant(standing.period.start)
    )
    .fetch_all(db)
    .await?;
    let rows: HashMap<_, _> = rows.iter().map(|row| (row.usage_type.as_str(), row)).collect();
    let in_force = |usage_type: &UsageType| {
        let row = rows.get(usage_type.name());
        let agreed = row.and_then(|row| row.r#override);
        let mode = mode(catalogue, &standing.plan, *usage_type);
        LimitInForce {
            usage_type: usage_type.name(),
            mode: mode.as_str(),
            limit: limit_or_none(catalogue, &standing.plan, *usage_type, agreed),
            overridden: agreed.is_some(),
            granted_units: row.and_then(|row| row.granted_units).unwrap_or(0),
        }
    };
    Ok(catalogue.usage_types().iter().map(in_force).collect())
}

/// Writes the limits in force into the pools of the accounts' running periods; returns those that changed. The caller holds
/// the accounts' locks, and announces them after its commit.
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
    // In the order of the key, as everyone locks several pools: otherwise a grant of many counters and this could each hold
    // what the other waits for.
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

/// Brings every pool of a running period in line with the catalogue, after it changed; returns how many accounts that
/// concerned. Interrupted, it goes on where it is called again.
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
    // In one order, so that two workers that start together wait for each other instead of dying together.
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
    let current = subscriptions::current(&mut **tx, accounts).await?;
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
        // A type that the catalogue no longer has keeps its last limit: no gateway asks for it.
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

/// The limit in force of one usage type on a plan; `None`: there is no limit.
pub fn limit_or_none(catalogue: &Catalogue, plan: &str, usage_type: UsageType, agreed: Option<i64>) -> Option<i64> {
    (mode(catalogue, plan, usage_type) != Mode::Metered).then(|| limit(catalogue, plan, usage_type, agreed))
}

/// The override, or else the plan's. A plan that this catalogue does not have allows what Free does: refusing to bill is
/// better than giving without end.
fn limit(catalogue: &Catalogue, plan: &str, usage_type: UsageType, agreed: Option<i64>) -> i64 {
    agreed.unwrap_or_else(|| allowance(catalogue, plan, usage_type).map_or(0, |allowance| allowance.limit))
}

fn mode(catalogue: &Catalogue, plan: &str, usage_type: UsageType) -> Mode {
    allowance(catalogue, plan, usage_type).map_or(Mode::Limited, |allowance| allowance.mode)
}

fn allowance(catalogue: &Catalogue, plan: &str, usage_type: UsageType) -> Option<schema::catalogue::Allowance> {
    let plan = catalogue.plan(plan).or_else(|| catalogue.plan(Catalogue::FREE))?;
    Some(plan.allowance(usage_type))
}

async fn record(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    account: AccountId,
    usage_type: UsageType,
    action: &'static str,
    details: Value,
) -> Result<(), Error> {
    let entry = audit::Entry {
        action,
        account: Some(account),
        subject: usage_type.name().to_owned(),
        details,
        actor: admin.actor(),
    };
    audit::record(tx, entry).await
}

async fn announce(admin: &Administration, accounts: &[AccountId]) {
    let changed = |account: &AccountId| Announcement::AccountChanged { account_id: *account };
    let announcements: Vec<_> = accounts.iter().map(changed).collect();
    admin.announcer.announce_all(&announcements).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn override_comes_before_the_plan_also_when_it_is_lower() {
        let catalogue = Catalogue::built_in();
        let export = catalogue.usage_type("export").unwrap();
        for (plan, agreed, expected) in [
            ("pro", None, 100),
            ("pro", Some(7), 7),
            ("free", Some(0), 0),
            ("free", None, 5),
            ("gone", None, 5),
        ] {
            assert_eq!(limit(&catalogue, plan, export, agreed), expected, "{plan} {agreed:?}");
        }
    }
}

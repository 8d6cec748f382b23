//! Pools: how many units of one account, usage type and period are granted, and the limit.

use std::collections::BTreeMap;

pub use protocol::grant::Pool;
use schema::{AccountId, Mode, period::instant, terms};
use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::segments::{self, Segment};

/// Identifies a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    pub account: AccountId,
    pub usage_type: String,
    /// First second of the period, since the Unix epoch.
    pub period_start: i64,
}

impl PoolKey {
    fn stamp(&self) -> Segment {
        (self.account, self.period_start)
    }
}

/// A pool to insert, and what must still be true of the account for its limit to be the one in force.
#[derive(Clone, Debug)]
pub struct NewPool {
    pub key: PoolKey,
    /// First second after the period.
    pub period_end: i64,
    /// The plan that the limit is read from. `None` opens nothing.
    pub plan: Option<String>,
    /// The account's version of the plan; `None`: the current one.
    pub version: Option<Uuid>,
    /// The account's current subscription, and when its row was last changed.
    pub subscription: Option<Uuid>,
    pub subscription_changed: Option<OffsetDateTime>,
}

/// Pool keys as one array for each column, which is what `unnest` takes.
struct Columns {
    accounts: Vec<Uuid>,
    usage_types: Vec<String>,
    starts: Vec<OffsetDateTime>,
}

impl Columns {
    fn of<'a>(keys: impl Iterator<Item = &'a PoolKey> + Clone) -> Self {
        Self {
            accounts: keys.clone().map(|key| key.account.0).collect(),
            usage_types: keys.clone().map(|key| key.usage_type.clone()).collect(),
            starts: keys.map(|key| instant(key.period_start)).collect(),
        }
    }
}

/// Locks the pools in the order of their keys, and returns them in the order of `keys`. `None`: there is no such pool.
///
/// The lock (`for no key update`) keeps out every transaction that changes the pool or grants from it.
pub async fn lock(connection: &mut PgConnection, keys: &[PoolKey]) -> sqlx::Result<Vec<Option<Pool>>> {
    let columns = Columns::of(keys.iter());
    let numbers: Vec<i64> = (0..).take(keys.len()).collect();
    let rows = sqlx::query!(
        r#"select k.number as "number!", p.limit_units, p.granted_units
               from quota_pool p
               join unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[])
                    as k (account_id, usage_type, period_start, number)
                 on p.account_id = k.account_id and p.usage_type = k.usage_type and p.period_start = k.period_start
               order by p.account_id, p.usage_type, p.period_start
               for no key update of p"#,
        &columns.accounts,
        &columns.usage_types,
        &columns.starts,
        &numbers
    )
    .fetch_all(connection)
    .await?;
    let mut pools = vec![None; keys.len()];
    for row in rows {
        let pool = Pool {
            limit: row.limit_units,
            granted: row.granted_units,
        };
        if let Some(slot) = usize::try_from(row.number)
            .ok()
            .and_then(|number| pools.get_mut(number))
        {
            *slot = Some(pool);
        }
    }
    Ok(pools)
}

/// Inserts pools with the limit in force ([`terms::limit`]). Keeps pools that exist.
///
/// Locks: the account rows in share mode, by id; then the new pools. A change of a limit locks the account first, too, so no
/// pool is opened with an outdated limit. A pool is not opened if the account's current subscription is no longer the given
/// one: the caller reads the account again first.
///
/// Waits for a lock for at most a second.
pub async fn open(connection: &mut PgConnection, pools: &[NewPool]) -> sqlx::Result<()> {
    let mut pools: Vec<&NewPool> = pools.iter().collect();
    pools.sort_by_key(|pool| &pool.key);
    let columns = Columns::of(pools.iter().map(|pool| &pool.key));
    let versions: Vec<_> = pools.iter().map(|pool| pool.version).collect();
    let plans: Vec<_> = pools.iter().map(|pool| pool.plan.clone()).collect();
    let subscriptions: Vec<_> = pools.iter().map(|pool| pool.subscription).collect();
    let changed: Vec<_> = pools.iter().map(|pool| pool.subscription_changed).collect();
    let numbers: Vec<i64> = (0..).take(pools.len()).collect();
    sqlx::query!(
        "select id, set_config('lock_timeout', '1000', true) from accounts where id = any($1) order by id for share",
        &columns.accounts
    )
    .fetch_all(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        r#"select k.number as "number!",
                coalesce(v.mode, case when k.version_id is null then l.mode else 'limited' end) as "mode!",
                coalesce(v.limit_units, l.limit_units) as "limit_units!", o.limit_units as "agreed_units?"
         from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[], $6::bigint[], $7::uuid[])
              as k (account_id, usage_type, plan_id, subscription_id, subscription_changed, number, version_id)
         join accounts a on a.id = k.account_id
         left join plan_version_limits v on v.version_id = k.version_id and v.usage_type = k.usage_type
         left join plan_limits l on l.plan_id = k.plan_id and l.usage_type = k.usage_type
         left join limit_overrides o on o.account_id = k.account_id and o.usage_type = k.usage_type
         left join subscriptions s on s.account_id = k.account_id and s.is_current
         where coalesce(v.limit_units, l.limit_units) is not null
           and s.id is not distinct from k.subscription_id and s.updated_at is not distinct from k.subscription_changed
         order by k.number"#,
        &columns.accounts,
        &columns.usage_types,
        &plans as &[Option<String>],
        &subscriptions as &[Option<Uuid>],
        &changed as &[Option<OffsetDateTime>],
        &numbers,
        &versions as &[Option<Uuid>]
    )
    .fetch_all(&mut *connection)
    .await?;
    let (mut opened, mut limits) = (Vec::new(), Vec::new());
    for row in rows {
        let pool = usize::try_from(row.number).ok().and_then(|number| pools.get(number));
        // The table allows only known modes.
        if let (Some(pool), Some(mode)) = (pool, Mode::from_stored(&row.mode)) {
            opened.push(*pool);
            limits.push(terms::limit(mode, row.limit_units, row.agreed_units));
        }
    }
    let columns = Columns::of(opened.iter().map(|pool| &pool.key));
    let ends: Vec<_> = opened.iter().map(|pool| instant(pool.period_end)).collect();
    sqlx::query!(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units)
         select * from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[])
         on conflict do nothing",
        &columns.accounts,
        &columns.usage_types,
        &columns.starts,
        &ends,
        &limits
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives units back to their pools, and returns how many of each went back, in the same order. A key names the segment or the
/// period that the usage is stamped with. A pool's granted units never fall below 0. Units without a pool (`None`, or a key
/// without a row) go back to none.
///
/// Locks: the pools, by key. The caller records in the same transaction what went back.
pub async fn give_back(connection: &mut PgConnection, units: &[(Option<PoolKey>, i64)]) -> sqlx::Result<Vec<i64>> {
    let stamped: Vec<_> = units
        .iter()
        .filter_map(|(key, _)| key.as_ref())
        .map(PoolKey::stamp)
        .collect();
    let periods = segments::periods(&mut *connection, &stamped).await?;
    let mut units = units.to_vec();
    for key in units.iter_mut().filter_map(|(key, _)| key.as_mut()) {
        key.period_start = periods.get(&key.stamp()).copied().unwrap_or(key.period_start);
    }
    let mut keys: Vec<PoolKey> = units.iter().filter_map(|(key, _)| key.clone()).collect();
    keys.sort_unstable();
    keys.dedup();
    let pools = lock(connection, &keys).await?;
    let mut granted: BTreeMap<&PoolKey, i64> = keys
        .iter()
        .zip(pools)
        .filter_map(|(key, pool)| Some((key, pool?.granted)))
        .collect();
    let before = granted.clone();
    let take = |(key, units): &(Option<PoolKey>, i64)| {
        let of_pool = key.as_ref().and_then(|key| granted.get_mut(key));
        of_pool.map_or(0, |granted| {
            let units = (*granted).min(*units).max(0);
            *granted -= units;
            units
        })
    };
    let returned = units.iter().map(take).collect();
    granted.retain(|key, granted| before.get(key) != Some(granted));
    let columns = Columns::of(granted.keys().copied());
    sqlx::query!(
        "update quota_pool p set granted_units = n.granted_units
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[])
              as n (account_id, usage_type, period_start, granted_units)
         where (p.account_id, p.usage_type, p.period_start) = (n.account_id, n.usage_type, n.period_start)",
        &columns.accounts,
        &columns.usage_types,
        &columns.starts,
        &granted.values().copied().collect::<Vec<_>>()
    )
    .execute(connection)
    .await?;
    Ok(returned)
}

/// Sets the limits of these pools.
///
/// Locks: the pools, by key. The caller holds the locks on their accounts.
pub async fn set_limits(connection: &mut PgConnection, limits: &[(PoolKey, i64)]) -> sqlx::Result<()> {
    let keys: Vec<PoolKey> = limits.iter().map(|(key, _)| key.clone()).collect();
    lock(connection, &keys).await?;
    let columns = Columns::of(keys.iter());
    sqlx::query!(
        "update quota_pool p set limit_units = n.limit_units
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[])
              as n (account_id, usage_type, period_start, limit_units)
         where (p.account_id, p.usage_type, p.period_start) = (n.account_id, n.usage_type, n.period_start)",
        &columns.accounts,
        &columns.usage_types,
        &columns.starts,
        &limits.iter().map(|(_, units)| *units).collect::<Vec<_>>()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// One pool. Takes no lock.
pub async fn find(
    db: impl PgExecutor<'_>,
    account: AccountId,
    usage_type: &str,
    start: i64,
) -> sqlx::Result<Option<Pool>> {
    let row = sqlx::query!(
        "select limit_units, granted_units from quota_pool where account_id = $1 and usage_type = $2 and period_start = $3",
        account.0,
        usage_type,
        instant(start)
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Pool {
        limit: row.limit_units,
        granted: row.granted_units,
    }))
}

/// An account's pools of one period, by usage type. Takes no lock.
pub async fn of_period(
    db: impl PgExecutor<'_>,
    account: AccountId,
    start: i64,
) -> sqlx::Result<BTreeMap<String, Pool>> {
    let rows = sqlx::query!(
        "select usage_type, limit_units, granted_units from quota_pool where account_id = $1 and period_start = $2",
        account.0,
        instant(start)
    )
    .fetch_all(db)
    .await?;
    let pools = rows.into_iter().map(|row| {
        let pool = Pool {
            limit: row.limit_units,
            granted: row.granted_units,
        };
        (row.usage_type, pool)
    });
    Ok(pools.collect())
}

/// A page of the accounts that have a pool whose period ends after `now`, by id, after the account `after`. Takes no lock.
pub async fn accounts_with_pools(
    db: impl PgExecutor<'_>,
    after: AccountId,
    now: i64,
    page: i64,
) -> sqlx::Result<Vec<AccountId>> {
    let ids = sqlx::query_scalar!(
        "select distinct account_id from quota_pool where account_id > $1 and period_end > $2
             order by account_id limit $3",
        after.0,
        instant(now),
        page
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(AccountId).collect())
}

//! Pools: how many units of one account, usage type and period are granted, and the limit.

use std::{collections::BTreeMap, time::Duration};

pub use protocol::grant::Pool;
use schema::{AccountId, Mode, period::instant, pool_type::billed_name, terms};
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

    /// The billed pool of the same usage type and segment.
    fn billed(&self) -> Self {
        Self {
            usage_type: billed_name(&self.usage_type),
            ..self.clone()
        }
    }
}

/// What a billed pool costs, according to the gateway. The prices that the billing worker stored come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSpend {
    /// First second of the period whose cap limits the pool.
    pub period_start: i64,
    pub included: i64,
    pub unit_price_micros: i64,
}

/// A pool to insert, and what must still be true of the account for its limit to be the one in force.
#[derive(Clone, Debug)]
pub struct NewPool {
    pub key: PoolKey,
    /// The catalogue's name of its usage type.
    pub usage_type: &'static str,
    /// `None`: it has a limit.
    pub spend: Option<NewSpend>,
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
    let usage_types: Vec<_> = pools.iter().map(|pool| pool.usage_type.to_owned()).collect();
    sqlx::query!(
        "select id, set_config('lock_timeout', '1000', true) from accounts where id = any($1) order by id for share",
        &columns.accounts
    )
    .fetch_all(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        r#"select k.number as "number!",
                coalesce(v.mode, case when k.version_id is null then l.mode else 'limited' end) as "mode!",
                coalesce(v.limit_units, l.limit_units) as "limit_units!", o.limit_units as "agreed_units?",
                sp.included_units as "included_units?", sp.unit_price_micros as "unit_price_micros?"
         from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[], $6::bigint[], $7::uuid[],
                     $8::timestamptz[])
              as k (account_id, usage_type, plan_id, subscription_id, subscription_changed, number, version_id, period_start)
         join accounts a on a.id = k.account_id
         left join plan_version_limits v on v.version_id = k.version_id and v.usage_type = k.usage_type
         left join plan_limits l on l.plan_id = k.plan_id and l.usage_type = k.usage_type
         left join limit_overrides o on o.account_id = k.account_id and o.usage_type = k.usage_type
         left join subscriptions s on s.account_id = k.account_id and s.is_current
         left join segment_prices sp on sp.account_id = k.account_id and sp.usage_type = k.usage_type
             and sp.period_start = k.period_start
         where coalesce(v.limit_units, l.limit_units) is not null
           and s.id is not distinct from k.subscription_id and s.updated_at is not distinct from k.subscription_changed
         order by k.number"#,
        &columns.accounts,
        &usage_types,
        &plans as &[Option<String>],
        &subscriptions as &[Option<Uuid>],
        &changed as &[Option<OffsetDateTime>],
        &numbers,
        &versions as &[Option<Uuid>],
        &columns.starts
    )
    .fetch_all(&mut *connection)
    .await?;
    let (mut opened, mut limits, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let pool = usize::try_from(row.number).ok().and_then(|number| pools.get(number));
        // The table allows only known modes.
        if let (Some(pool), Some(mode)) = (pool, Mode::from_stored(&row.mode)) {
            opened.push(*pool);
            limits.push(terms::limit(mode, row.limit_units, row.agreed_units));
            rates.push(pool.spend.map(|spend| {
                let stored = row.included_units.zip(row.unit_price_micros);
                (
                    spend.period_start,
                    stored.unwrap_or((spend.included, spend.unit_price_micros)),
                )
            }));
        }
    }
    let columns = Columns::of(opened.iter().map(|pool| &pool.key));
    let ends: Vec<_> = opened.iter().map(|pool| instant(pool.period_end)).collect();
    sqlx::query!(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units, spend_period, included_units,
                                 unit_price_micros)
         select * from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::timestamptz[],
                              $7::bigint[], $8::bigint[])
         on conflict do nothing",
        &columns.accounts,
        &columns.usage_types,
        &columns.starts,
        &ends,
        &limits,
        &rates.iter().map(|rate| rate.map(|(start, _)| instant(start))).collect::<Vec<_>>() as &[Option<OffsetDateTime>],
        &rates.iter().map(|rate| rate.map(|(_, (included, _))| included)).collect::<Vec<_>>() as &[Option<i64>],
        &rates.iter().map(|rate| rate.map(|(_, (_, micros))| micros)).collect::<Vec<_>>() as &[Option<i64>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Units of an event that was lowered or dropped.
#[derive(Clone, Debug)]
pub struct Returned {
    /// The key names the segment or the period that the usage is stamped with, and the usage type.
    pub key: PoolKey,
    pub units: i64,
    /// A lease paid for them. Otherwise they are in no pool, unless a spend cap counts them.
    pub is_leased: bool,
}

/// Gives units back to their pools, and returns how many of each went back, in the same order. They go to the billed pool of the
/// segment, if there is one, otherwise to the pool of the period. The granted units of a pool never fall below 0. Units without a
/// pool go back to none.
///
/// Locks: the pools, by key. The caller records in the same transaction what went back.
pub async fn give_back(connection: &mut PgConnection, units: &[Returned]) -> sqlx::Result<Vec<i64>> {
    let stamped: Vec<_> = units.iter().map(|returned| returned.key.stamp()).collect();
    let periods = segments::periods(&mut *connection, &stamped).await?;
    let billed: Vec<_> = units.iter().map(|returned| returned.key.billed()).collect();
    let of_period: Vec<_> = units
        .iter()
        .map(|Returned { key, .. }| PoolKey {
            period_start: periods.get(&key.stamp()).copied().unwrap_or(key.period_start),
            ..key.clone()
        })
        .collect();
    let mut keys: Vec<PoolKey> = billed.iter().chain(&of_period).cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    lock(connection, &keys).await?;
    let mut pools = contents(connection, &keys).await?;
    let before = pools.clone();
    let take = |((returned, billed), of_period): ((&Returned, &PoolKey), &PoolKey)| {
        let left = match (pools.contains_key(billed), returned.is_leased) {
            (true, true) => pools.get_mut(billed).map(|pool| &mut pool.granted),
            (true, false) => pools.get_mut(billed).map(|pool| &mut pool.unleased),
            (false, true) => pools.get_mut(of_period).map(|pool| &mut pool.granted),
            (false, false) => None,
        };
        left.map_or(0, |left| {
            let units = (*left).min(returned.units).max(0);
            *left -= units;
            units
        })
    };
    let returned = units.iter().zip(&billed).zip(&of_period).map(take).collect();
    pools.retain(|key, pool| before.get(key) != Some(pool));
    let columns = Columns::of(pools.keys());
    sqlx::query!(
        "update quota_pool p set granted_units = n.granted_units, unleased_units = n.unleased_units
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[])
              as n (account_id, usage_type, period_start, granted_units, unleased_units)
         where (p.account_id, p.usage_type, p.period_start) = (n.account_id, n.usage_type, n.period_start)",
        &columns.accounts,
        &columns.usage_types,
        &columns.starts,
        &pools.values().map(|pool| pool.granted).collect::<Vec<_>>(),
        &pools.values().map(|pool| pool.unleased).collect::<Vec<_>>()
    )
    .execute(connection)
    .await?;
    Ok(returned)
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Content {
    granted: i64,
    unleased: i64,
}

/// What is in those of the pools that exist. Takes no lock.
async fn contents(connection: &mut PgConnection, keys: &[PoolKey]) -> sqlx::Result<BTreeMap<PoolKey, Content>> {
    let columns = Columns::of(keys.iter());
    let rows = sqlx::query!(
        "select p.account_id, p.usage_type, p.period_start, p.granted_units, p.unleased_units
         from quota_pool p
         join unnest($1::uuid[], $2::text[], $3::timestamptz[]) as k (account_id, usage_type, period_start)
              using (account_id, usage_type, period_start)",
        &columns.accounts,
        &columns.usage_types,
        &columns.starts
    )
    .fetch_all(connection)
    .await?;
    let pools = rows.into_iter().map(|row| {
        let key = PoolKey {
            account: AccountId(row.account_id),
            usage_type: row.usage_type,
            period_start: row.period_start.unix_timestamp(),
        };
        let content = Content {
            granted: row.granted_units,
            unleased: row.unleased_units,
        };
        (key, content)
    });
    Ok(pools.collect())
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

/// A page of the accounts that have a pool whose period did not end longer ago than `ended_within`, by the database's clock. By id,
/// after the account `after`. Takes no lock.
pub async fn accounts_with_pools(
    db: impl PgExecutor<'_>,
    after: AccountId,
    ended_within: Duration,
    page: i64,
) -> sqlx::Result<Vec<AccountId>> {
    let ids = sqlx::query_scalar!(
        "select distinct account_id from quota_pool where account_id > $1 and period_end > now() - make_interval(secs => $2)
             order by account_id limit $3",
        after.0,
        ended_within.as_secs_f64(),
        page
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(AccountId).collect())
}

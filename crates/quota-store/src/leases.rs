//! Leases: units that a writer took from a pool, to spend without asking again.

use std::{collections::BTreeMap, time::Duration};

use schema::{AccountId, LeaseId, RunId, period::instant};
use sqlx::{Connection, PgConnection, PgExecutor};
use uuid::Uuid;

use crate::pools::PoolKey;

/// What a writer gives back of one of its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    pub lease: LeaseId,
    /// All units given back so far, including these: sending it twice gives them back once.
    pub total_units: i64,
    /// Nothing more comes back: the lease ends.
    pub is_last: bool,
}

/// Units that came back to one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    pub pool: PoolKey,
    pub units: i64,
    /// The pool's granted units after the return.
    pub granted_units: i64,
}

/// A lease to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub lease: LeaseId,
    pub pool: PoolKey,
    pub units: i64,
}

/// Another writer with a live lease of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Index of the pool in the question.
    pub pool: usize,
    pub writer: RunId,
    /// It is live and its heartbeat moved within the last 15 seconds, so it can be asked for units.
    pub in_reach: bool,
}

/// A live lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveLease {
    pub id: LeaseId,
    pub account: AccountId,
    pub units: i64,
    /// Units that its writer has given back.
    pub returned_units: i64,
    /// It was granted longer ago than the given age.
    pub is_old: bool,
}

/// What [`settle`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub leases: i64,
    /// Units that went back to pools.
    pub units: i64,
    /// The accounts that got units back.
    pub accounts: Vec<AccountId>,
}

/// Gives units of the writer's live leases back to their pools. Repeating it changes nothing.
///
/// Locks: the leases, by id. The caller has locked the writer and the pools.
pub async fn give_back(
    connection: &mut PgConnection,
    writer: RunId,
    returns: &[Return],
) -> sqlx::Result<Vec<Returned>> {
    let ids: Vec<_> = returns.iter().map(|one| one.lease.0).collect();
    let totals: Vec<_> = returns.iter().map(|one| one.total_units).collect();
    let lasts: Vec<_> = returns.iter().map(|one| one.is_last).collect();
    // Not below 0: a row that someone changed by hand must not block everyone else's leases.
    let rows = sqlx::query!(
        r#"with given as (
               select l.id, l.account_id, l.usage_type, l.period_start, x.last, l.returned_units as before,
                      greatest(least(x.total, l.units), l.returned_units) as total
               from quota_leases l
               join unnest($2::uuid[], $3::bigint[], $4::boolean[]) as x (id, total, last) on x.id = l.id
               where l.run_id = $1 and l.state = 'live'
               order by l.id
               for update of l
           ), marked as (
               update quota_leases l
               set returned_units = given.total, state = case when given.last then 'returned' else l.state end
               from given where l.id = given.id
           ), back as (
               select account_id, usage_type, period_start, sum(total - before)::bigint as units
               from given group by account_id, usage_type, period_start
           )
           update quota_pool p set granted_units = greatest(p.granted_units - back.units, 0)
           from back
           where p.account_id = back.account_id and p.usage_type = back.usage_type
             and p.period_start = back.period_start and back.units > 0
           returning p.account_id, p.usage_type, p.period_start, p.granted_units, back.units as "units!""#,
        writer.0,
        &ids,
        &totals,
        &lasts
    )
    .fetch_all(connection)
    .await?;
    let returned = rows.into_iter().map(|row| Returned {
        pool: PoolKey {
            account: AccountId(row.account_id),
            usage_type: row.usage_type,
            period_start: row.period_start.unix_timestamp(),
        },
        units: row.units,
        granted_units: row.granted_units,
    });
    Ok(returned.collect())
}

/// The units of those of the leases that exist: an earlier grant, whose outcome is unknown, has made them.
///
/// Takes no lock. The caller has locked the pools: the earlier grant held the same locks until it ended, so its leases are
/// visible.
pub async fn granted(db: impl PgExecutor<'_>, leases: &[LeaseId]) -> sqlx::Result<BTreeMap<LeaseId, i64>> {
    let ids: Vec<Uuid> = leases.iter().map(|lease| lease.0).collect();
    let rows = sqlx::query!("select id, units from quota_leases where id = any($1)", &ids)
        .fetch_all(db)
        .await?;
    Ok(rows.into_iter().map(|row| (LeaseId(row.id), row.units)).collect())
}

/// Grants leases to the writer, and returns how many it granted. A grant that would pass the pool's limit is not made.
///
/// Locks: inserts the leases. The caller has locked the writer and the pools, and decided on the locked rows, so all grants
/// are made. The statement checks the limit again: whatever else is wrong, no grant passes it. The cap of billed pools is decided
/// under its lock ([`crate::caps::lock`]).
pub async fn grant(connection: &mut PgConnection, writer: RunId, grants: &[Grant]) -> sqlx::Result<u64> {
    let leases: Vec<_> = grants.iter().map(|grant| grant.lease.0).collect();
    let accounts: Vec<_> = grants.iter().map(|grant| grant.pool.account.0).collect();
    let usage_types: Vec<_> = grants.iter().map(|grant| grant.pool.usage_type.clone()).collect();
    let starts: Vec<_> = grants.iter().map(|grant| instant(grant.pool.period_start)).collect();
    let units: Vec<_> = grants.iter().map(|grant| grant.units).collect();
    let inserted = sqlx::query!(
        "with granted as (
                 update quota_pool p set granted_units = p.granted_units + g.units
                 from unnest($2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bigint[])
                      as g (lease_id, account_id, usage_type, period_start, units)
                 where p.account_id = g.account_id and p.usage_type = g.usage_type and p.period_start = g.period_start
                   and (p.granted_units + g.units <= p.limit_units or p.spend_period is not null)
                 returning g.lease_id, g.account_id, g.usage_type, g.period_start, g.units
             )
             insert into quota_leases (id, run_id, account_id, usage_type, period_start, units)
             select lease_id, $1, account_id, usage_type, period_start, units from granted",
        writer.0,
        &leases,
        &accounts,
        &usage_types,
        &starts,
        &units
    )
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected())
}

/// The other writers that hold live leases of these pools. A writer that is being fenced is left out: its units come back
/// when it is settled, which is announced.
///
/// Takes no lock. The caller has locked the pools: every granted unit that no holder has is the asking writer's, or is spent.
pub async fn holders(db: impl PgExecutor<'_>, asking: RunId, pools: &[PoolKey]) -> sqlx::Result<Vec<Holder>> {
    let accounts: Vec<_> = pools.iter().map(|pool| pool.account.0).collect();
    let usage_types: Vec<_> = pools.iter().map(|pool| pool.usage_type.clone()).collect();
    let starts: Vec<_> = pools.iter().map(|pool| instant(pool.period_start)).collect();
    let numbers: Vec<i64> = (0..).take(pools.len()).collect();
    let rows = sqlx::query!(
        r#"select distinct k.number as "number!", r.id,
                  r.state = 'live' and r.heartbeat_at > now() - interval '15 seconds' as "in_reach!"
           from unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::bigint[])
                as k (account_id, usage_type, period_start, number)
           join quota_leases l on l.account_id = k.account_id and l.usage_type = k.usage_type
                               and l.period_start = k.period_start and l.state = 'live'
           join gateway_runs r on r.id = l.run_id
           where r.id <> $1 and r.state in ('live', 'spooling')"#,
        asking.0,
        &accounts,
        &usage_types,
        &starts,
        &numbers
    )
    .fetch_all(db)
    .await?;
    let holders = rows.into_iter().filter_map(|row| {
        Some(Holder {
            pool: usize::try_from(row.number).ok()?,
            writer: RunId(row.id),
            in_reach: row.in_reach,
        })
    });
    Ok(holders.collect())
}

/// A page of the writer's live leases, by account and id, after the lease `after`. Takes no lock.
///
/// `old_after`: the age from which a lease counts as old.
pub async fn live(
    db: impl PgExecutor<'_>,
    writer: RunId,
    after: Option<(AccountId, LeaseId)>,
    old_after: Duration,
    page: i64,
) -> sqlx::Result<Vec<LiveLease>> {
    let (account, lease) = after.unwrap_or((AccountId::NIL, LeaseId::NIL));
    let rows = sqlx::query!(
        r#"select id, account_id, units, returned_units,
                  created_at < now() - make_interval(secs => $5) as "is_old!"
           from quota_leases where run_id = $1 and state = 'live' and (account_id, id) > ($2, $3)
           order by account_id, id limit $4"#,
        writer.0,
        account.0,
        lease.0,
        page,
        old_after.as_secs_f64()
    )
    .fetch_all(db)
    .await?;
    let leases = rows.into_iter().map(|row| LiveLease {
        id: LeaseId(row.id),
        account: AccountId(row.account_id),
        units: row.units,
        returned_units: row.returned_units,
        is_old: row.is_old,
    });
    Ok(leases.collect())
}

/// Settles leases of a writer that is being fenced: `spent` says how many units of each are spent, the rest goes back to its
/// pool. Leases that are not live any more, or that spent more than they had, stay as they are. Repeated, or run by two
/// workers at once, it settles each lease once.
///
/// One transaction. Locks: the writer (share), the pools by key, the leases by id. It waits for a lock for at most 5 seconds,
/// and PostgreSQL ends it if the connection is idle for 5 seconds.
pub async fn settle(connection: &mut PgConnection, writer: RunId, spent: &[(LeaseId, i64)]) -> sqlx::Result<Settled> {
    let ids: Vec<Uuid> = spent.iter().map(|(lease, _)| lease.0).collect();
    let units: Vec<i64> = spent.iter().map(|(_, units)| *units).collect();
    let mut tx = connection.begin().await?;
    // The settings let a worker that is cut off during the transaction block others for seconds only.
    let fencing = sqlx::query!(
        r#"select set_config('idle_in_transaction_session_timeout', '5000', true) as idle_timeout,
                  set_config('lock_timeout', '5000', true) as lock_timeout
           from gateway_runs where id = $1 and state = 'fencing' for share"#,
        writer.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    if fencing.is_none() {
        return Ok(Settled::default());
    }
    sqlx::query!(
        r#"select p.granted_units from quota_pool p
           join (select distinct account_id, usage_type, period_start from quota_leases where id = any($1)) as k
             using (account_id, usage_type, period_start)
           order by p.account_id, p.usage_type, p.period_start for no key update of p"#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    // Not below 0: a row that someone changed by hand must not block everyone else's leases.
    let done = sqlx::query!(
        r#"with counted as (
               select l.id, l.account_id, l.usage_type, l.period_start,
                      l.units - l.returned_units - x.spent as rest
               from quota_leases l join unnest($2::uuid[], $3::bigint[]) as x (id, spent) on x.id = l.id
               where l.run_id = $1 and l.state = 'live' and l.units - l.returned_units >= x.spent
               order by l.id for update of l
           ), settled as (
               update quota_leases l set state = 'settled', returned_units = l.returned_units + counted.rest
               from counted where l.id = counted.id
               returning counted.account_id, counted.usage_type, counted.period_start, counted.rest
           ), back as (
               select account_id, usage_type, period_start, sum(rest)::bigint as units
               from settled where rest > 0 group by account_id, usage_type, period_start
           ), pools as (
               update quota_pool p set granted_units = greatest(p.granted_units - back.units, 0)
               from back
               where p.account_id = back.account_id and p.usage_type = back.usage_type
                 and p.period_start = back.period_start
               returning p.account_id
           )
           select (select count(*) from settled) as "leases!",
                  (select coalesce(sum(rest), 0)::bigint from settled) as "units!",
                  (select coalesce(array_agg(distinct account_id), '{}') from pools) as "accounts!""#,
        writer.0,
        &ids,
        &units
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Settled {
        leases: done.leases,
        units: done.units,
        accounts: done.accounts.into_iter().map(AccountId).collect(),
    })
}

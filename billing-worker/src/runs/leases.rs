//! Live leases of a run that is over: decides how many units each returns, and returns them.

use std::time::Duration;

use anyhow::{Context, Result};
use protocol::give_back::{LeaseRow, LeaseState, Spent};
use schema::{AccountId, LeaseId, RunId};
use sqlx::PgPool;
use tokio::time::timeout;
use uuid::Uuid;

/// Leases per query to ClickHouse and per transaction.
pub const PAGE: i64 = 500;

/// How long after its grant a lease can be counted. Rows are deleted after at least 28 days from the day of the request, which
/// may be five days before the row was stored; three more days allow for clock differences.
pub const COUNTED_FOR: Duration = Duration::from_secs(20 * 24 * 3_600);

/// For one statement, and for one transaction.
const PATIENCE: Duration = Duration::from_secs(30);

/// A live lease. Its run returns no more units, so only settling changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub account: AccountId,
    pub units: i64,
    /// Units that the run itself returned.
    pub returned: i64,
    /// Its first rows may have been deleted.
    pub is_old: bool,
}

/// How a lease is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This many units were spent; the rest is returned.
    Spent(i64),
    /// More units were counted than it had, by this many.
    Overspent(i64),
    /// Too old to be counted: it counts as fully spent.
    Uncounted,
}

/// The result of one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub leases: i64,
    pub units: i64,
    /// Accounts to which units were returned.
    pub accounts: Vec<AccountId>,
}

impl Lease {
    /// `counted`: units of its events. None of them is negative, since corrections have no lease.
    pub fn verdict(&self, counted: i64) -> Verdict {
        if self.is_old {
            return Verdict::Uncounted;
        }
        match self.row().spent(counted) {
            Spent::Units(units) => Verdict::Spent(units),
            Spent::TooMany(units) => Verdict::Overspent(units),
        }
    }

    fn row(&self) -> LeaseRow {
        LeaseRow {
            units: self.units,
            returned: self.returned,
            state: LeaseState::Live,
        }
    }

    /// Units that the run had not returned.
    pub fn had(&self) -> i64 {
        self.row().had()
    }
}

/// Reads the run's live leases after `after`, ordered by account.
pub async fn page(db: &PgPool, run: RunId, after: Option<&Lease>) -> Result<Vec<Lease>> {
    let (account, lease) = after.map_or((Uuid::nil(), Uuid::nil()), |lease| (lease.account.0, lease.id.0));
    let rows = sqlx::query!(
        r#"select id, account_id, units, returned_units,
                  created_at < now() - make_interval(secs => $5) as "is_old!"
           from quota_leases where run_id = $1 and state = 'live' and (account_id, id) > ($2, $3)
           order by account_id, id limit $4"#,
        run.0,
        account,
        lease,
        PAGE,
        COUNTED_FOR.as_secs_f64()
    )
    .fetch_all(db);
    let rows = timeout(PATIENCE, rows).await.context("reading leases")?;
    let rows = rows.context("reading leases")?;
    Ok(rows
        .into_iter()
        .map(|row| Lease {
            id: LeaseId(row.id),
            account: AccountId(row.account_id),
            units: row.units,
            returned: row.returned_units,
            is_old: row.is_old,
        })
        .collect())
}

/// Settles leases with their spent units and returns the rest. Only changes leases that are still live, of a run that is being
/// ended, so repeated or concurrent calls settle each lease once.
pub async fn settle(db: &PgPool, run: RunId, spent: &[(LeaseId, i64)]) -> Result<Settled> {
    if spent.is_empty() {
        return Ok(Settled::default());
    }
    timeout(PATIENCE, settle_now(db, run, spent))
        .await
        .context("settling leases")?
        .context("settling leases")
}

/// Locks in the common order: the run, the pools by key, the leases.
async fn settle_now(db: &PgPool, run: RunId, spent: &[(LeaseId, i64)]) -> sqlx::Result<Settled> {
    let ids: Vec<Uuid> = spent.iter().map(|(lease, _)| lease.0).collect();
    let units: Vec<i64> = spent.iter().map(|(_, units)| *units).collect();
    let mut tx = db.begin().await?;
    // A worker that is cut off in the middle of the transaction blocks others for seconds only.
    let fencing = sqlx::query!(
        r#"select set_config('idle_in_transaction_session_timeout', '5000', true) as idle_timeout,
                  set_config('lock_timeout', '5000', true) as lock_timeout
           from gateway_runs where id = $1 and state = 'fencing' for share"#,
        run.0
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
    // Not below 0: one row changed by hand must not block all other leases.
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
        run.0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_says_what_goes_back() {
        let lease = |returned, is_old| Lease {
            id: LeaseId::NIL,
            account: AccountId::NIL,
            units: 100,
            returned,
            is_old,
        };
        for (returned, counted, verdict) in [
            (0, 0, Verdict::Spent(0)),
            (0, 100, Verdict::Spent(100)),
            (0, 101, Verdict::Overspent(1)),
            (40, 60, Verdict::Spent(60)),
            // Units that the run returned but had spent.
            (40, 61, Verdict::Overspent(1)),
            (100, 0, Verdict::Spent(0)),
        ] {
            assert_eq!(lease(returned, false).verdict(counted), verdict, "{returned} {counted}");
        }
        assert_eq!(lease(0, true).verdict(0), Verdict::Uncounted);
    }
}

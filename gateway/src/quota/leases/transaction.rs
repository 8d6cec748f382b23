//! The statements that take and give back leases: many counters in one transaction.
//!
//! Order of locks, the same in every gateway so that none can block another for ever: the run, the pools by their key, the
//! leases. Whatever the transaction decides is decided on rows that it has locked.

use std::collections::BTreeMap;

use protocol::grant::{self, Pool};
use protocol::run::RunState;
use schema::{RunId, period::instant};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Job, Others, Want};

/// What became of one job's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It asked for nothing.
    Nothing,
    Granted {
        units: i64,
        pool: Pool,
    },
    Refused {
        pool: Pool,
        /// Of a request's question; a renewal does not recall.
        others: Others,
    },
    /// There is no pool to take from: the plan that was asked for is not the account's any more, or has no limit stored.
    NoPool,
}

#[derive(Debug)]
pub(crate) enum Executed {
    /// The run is not ours any more: nothing was done.
    RunLost { state: Option<String> },
    Done {
        /// One a job, in their order.
        decisions: Vec<Decision>,
        gateways: i64,
        units_returned: i64,
    },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactionError {
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    #[error("{granted} of {decided} grants were made, though they were decided on locked rows")]
    Inconsistent { granted: u64, decided: usize },
}

/// How far an execution came, in case it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// A commit was sent once, so what was granted then may exist.
    pub commit_sent: bool,
}

type PoolKey = (Uuid, String, i64);

/// Pools that a transaction locks, in the order of their keys.
struct Pools {
    numbers: BTreeMap<PoolKey, usize>,
    /// By number; `None`: there is no row.
    rows: Vec<Option<Pool>>,
}

/// Executes all jobs or none. Sent again after a failure with the same jobs, it grants once what may have been granted
/// before: a lease id that is there already is read, not granted again.
pub(crate) async fn execute(
    connection: &mut PgConnection,
    run: RunId,
    jobs: &[Job],
    progress: &mut Progress,
) -> Result<Executed, TransactionError> {
    let mut pools = Pools::of(jobs);
    let mut opened = false;
    loop {
        let mut transaction = connection.begin().await?;
        let (state, gateways) = read_run(&mut transaction, run).await?;
        // A run that spools gets leases too: what it records with them is acknowledged only from the spool of this very
        // run, and is in the run's lanes before they end. As of a live one, all its leases are there when it is fenced.
        if !state
            .as_deref()
            .and_then(RunState::parse)
            .is_some_and(RunState::is_active)
        {
            transaction.rollback().await?;
            return Ok(Executed::RunLost { state });
        }
        pools.lock(&mut transaction).await?;
        let missing = pools.missing(jobs);
        if !missing.is_empty() && !opened {
            // In a transaction of its own, before any pool is locked: it locks accounts, as those do who change limits.
            transaction.rollback().await?;
            open_pools(connection, &missing).await?;
            opened = true;
            continue;
        }
        let units_returned = give_back(&mut transaction, run, jobs, &mut pools).await?;
        let known = if progress.commit_sent {
            known_leases(&mut transaction, jobs).await?
        } else {
            BTreeMap::new()
        };
        let (mut decisions, grants) = decide(jobs, &mut pools, &known, gateways);
        grants.insert(&mut transaction, run).await?;
        find_others(&mut transaction, run, jobs, &mut decisions).await?;
        progress.commit_sent = true;
        transaction.commit().await?;
        return Ok(Executed::Done {
            decisions,
            gateways,
            units_returned,
        });
    }
}

/// The run's state, locked against a change of it, and how many gateways live.
async fn read_run(connection: &mut PgConnection, run: RunId) -> Result<(Option<String>, i64), TransactionError> {
    // Shared, for the moment of one transaction: from a fence's update on, no grant is made. The settings let a gateway
    // that is cut off in mid-transaction hold the others up for seconds, not for TCP's hours.
    let row = sqlx::query!(
        r#"select state,
                  (select count(*) from gateway_runs
                   where state in ('live', 'spooling') and heartbeat_at > now() - interval '15 seconds') as "gateways!",
                  set_config('idle_in_transaction_session_timeout', '3000', true) as idle_timeout,
                  set_config('lock_timeout', '1000', true) as lock_timeout
           from gateway_runs where id = $1 for share"#,
        run.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map_or((None, 1), |row| (Some(row.state), row.gateways.max(1))))
}

/// Decides on locked pools, in the jobs' order, and counts in the pools what it granted.
fn decide(jobs: &[Job], pools: &mut Pools, known: &BTreeMap<Uuid, i64>, gateways: i64) -> (Vec<Decision>, Grants) {
    let mut grants = Grants::default();
    let mut decide_one = |job: &Job| {
        let Some(want) = job.want() else {
            return Decision::Nothing;
        };
        let Some(pool) = pools.of_want(job, want) else {
            return Decision::NoPool;
        };
        if let Some(units) = known.get(&want.lease_id.0) {
            return Decision::Granted {
                units: *units,
                pool: *pool,
            };
        }
        let units_of = match want.ask {
            Some(_) => grant::grant_units,
            None => grant::renewal_units,
        };
        match units_of(pool.remaining(), want.needed, want.wanted, gateways) {
            units if units > 0 && pool.grant(units) => {
                grants.add(job, want, units);
                Decision::Granted { units, pool: *pool }
            }
            _ => Decision::Refused {
                pool: *pool,
                others: Others::default(),
            },
        }
    };
    let decisions = jobs.iter().map(&mut decide_one).collect();
    (decisions, grants)
}

/// Fills in who else holds leases of the pools that could not cover a question's cost: under the pools' locks, so that every
/// unit that was granted and is not theirs is ours or spent. A run that is being fenced is left out: its units come back
/// with its settling, which is announced.
async fn find_others(
    connection: &mut PgConnection,
    run: RunId,
    jobs: &[Job],
    decisions: &mut [Decision],
) -> Result<(), TransactionError> {
    let (mut accounts, mut usage_types, mut starts, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, (job, decision)) in jobs.iter().zip(&*decisions).enumerate() {
        if let (Decision::Refused { .. }, Some(want)) = (decision, job.want().filter(|want| want.ask.is_some())) {
            accounts.push(job.account.id.0);
            usage_types.push(job.usage_type.name().to_owned());
            starts.push(instant(want.period.start));
            numbers.push(number as i64);
        }
    }
    if numbers.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query!(
        r#"select distinct k.number as "number!", r.id,
                  r.state = 'live' and r.heartbeat_at > now() - interval '15 seconds' as "in_reach!"
           from unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::bigint[])
                as k (account_id, usage_type, period_start, number)
           join quota_leases l on l.account_id = k.account_id and l.usage_type = k.usage_type
                               and l.period_start = k.period_start and l.state = 'live'
           join gateway_runs r on r.id = l.run_id
           where r.id <> $1 and r.state in ('live', 'spooling')"#,
        run.0,
        &accounts,
        &usage_types,
        &starts,
        &numbers
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        if let Some(Decision::Refused { others, .. }) = decisions.get_mut(row.number as usize) {
            match row.in_reach {
                true => others.runs.push(RunId(row.id)),
                false => others.out_of_reach = true,
            }
        }
    }
    Ok(())
}

/// Gives back absolute totals, and only of live leases: repeating it changes nothing. Returns the units that came back.
async fn give_back(
    connection: &mut PgConnection,
    run: RunId,
    jobs: &[Job],
    pools: &mut Pools,
) -> Result<i64, TransactionError> {
    let (mut ids, mut totals, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
    for give_back in jobs.iter().flat_map(|job| &job.work.give_backs) {
        ids.push(give_back.lease_id.0);
        totals.push(give_back.total);
        lasts.push(give_back.last);
    }
    if ids.is_empty() {
        return Ok(0);
    }
    // Not below 0: one row that somebody changed by hand must not stop the leases of everybody else.
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
        run.0,
        &ids,
        &totals,
        &lasts
    )
    .fetch_all(connection)
    .await?;
    let mut units = 0;
    for row in rows {
        units += row.units;
        let key = (row.account_id, row.usage_type, row.period_start.unix_timestamp());
        if let Some(pool) = pools.get_mut(&key) {
            pool.granted = row.granted_units;
        }
    }
    Ok(units)
}

/// The leases that an earlier execution, of which nobody knows how it ended, has granted. Read after the pools are locked:
/// the earlier one held the same locks to its end, so its end is seen.
async fn known_leases(connection: &mut PgConnection, jobs: &[Job]) -> Result<BTreeMap<Uuid, i64>, TransactionError> {
    let ids: Vec<Uuid> = jobs.iter().filter_map(Job::want).map(|want| want.lease_id.0).collect();
    let rows = sqlx::query!("select id, units from quota_leases where id = any($1)", &ids)
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.units)).collect())
}

/// Makes pools of a new period (or of a usage type's first request in it) with the limit in force.
///
/// Who changes a limit (a plan, an override) first locks the account's row for update and then changes the pools that are
/// there. Here the account's row is locked before its limits are read: so no pool is opened with the limit of before. A
/// plan that this gateway believes in and Postgres does not any more opens nothing: the account is read again first.
async fn open_pools(connection: &mut PgConnection, jobs: &[&Job]) -> Result<(), TransactionError> {
    let mut rows: Vec<(&Job, &Want)> = jobs.iter().filter_map(|job| Some((*job, job.want()?))).collect();
    rows.sort_by_key(|(job, want)| (job.account.id, job.usage_type.name(), want.period.start));
    let accounts: Vec<Uuid> = rows.iter().map(|(job, _)| job.account.id.0).collect();
    let (mut usage_types, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    let (mut plans, mut subscriptions, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    for (job, want) in &rows {
        // A renewal has a pool already; were it gone, nothing of the account is at hand to open it with.
        let state = want.ask.as_ref().map(|ask| &ask.state);
        let facts = state.map(|state| &state.facts);
        usage_types.push(job.usage_type.name().to_owned());
        starts.push(instant(want.period.start));
        ends.push(instant(want.period.end));
        plans.push(state.map(|state| state.standing.plan.clone()));
        subscriptions.push(facts.and_then(|facts| Some(facts.subscription.as_ref()?.id.0)));
        changed.push(facts.and_then(|facts| facts.subscription_changed));
    }
    let mut transaction = connection.begin().await?;
    sqlx::query!(
        "select id, set_config('lock_timeout', '1000', true) from accounts where id = any($1) order by id for share",
        &accounts
    )
    .fetch_all(&mut *transaction)
    .await?;
    sqlx::query!(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units)
         select k.account_id, k.usage_type, k.period_start, k.period_end, coalesce(o.limit_units, l.limit_units)
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::uuid[],
                     $7::timestamptz[])
              as k (account_id, usage_type, period_start, period_end, plan_id, subscription_id, subscription_changed)
         join accounts a on a.id = k.account_id
         join plan_limits l on l.plan_id = k.plan_id and l.usage_type = k.usage_type
         left join limit_overrides o on o.account_id = k.account_id and o.usage_type = k.usage_type
         left join subscriptions s on s.account_id = k.account_id and s.is_current
         where s.id is not distinct from k.subscription_id and s.updated_at is not distinct from k.subscription_changed
         order by k.account_id, k.usage_type, k.period_start
         on conflict do nothing",
        &accounts,
        &usage_types,
        &starts,
        &ends,
        &plans as &[Option<String>],
        &subscriptions as &[Option<Uuid>],
        &changed as &[Option<OffsetDateTime>],
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Rows of the grants to be made.
#[derive(Default)]
struct Grants {
    leases: Vec<Uuid>,
    accounts: Vec<Uuid>,
    usage_types: Vec<String>,
    starts: Vec<OffsetDateTime>,
    units: Vec<i64>,
}

impl Grants {
    fn add(&mut self, job: &Job, want: &Want, units: i64) {
        self.leases.push(want.lease_id.0);
        self.accounts.push(job.account.id.0);
        self.usage_types.push(job.usage_type.name().to_owned());
        self.starts.push(instant(want.period.start));
        self.units.push(units);
    }

    /// The condition says again what was decided on the locked rows: whatever else is wrong, no grant passes a limit.
    async fn insert(&self, connection: &mut PgConnection, run: RunId) -> Result<(), TransactionError> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let inserted = sqlx::query!(
            "with granted as (
                 update quota_pool p set granted_units = p.granted_units + g.units
                 from unnest($2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bigint[])
                      as g (lease_id, account_id, usage_type, period_start, units)
                 where p.account_id = g.account_id and p.usage_type = g.usage_type and p.period_start = g.period_start
                   and p.granted_units + g.units <= p.limit_units
                 returning g.lease_id, g.account_id, g.usage_type, g.period_start, g.units
             )
             insert into quota_leases (id, run_id, account_id, usage_type, period_start, units)
             select lease_id, $1, account_id, usage_type, period_start, units from granted",
            run.0,
            &self.leases,
            &self.accounts,
            &self.usage_types,
            &self.starts,
            &self.units
        )
        .execute(connection)
        .await?;
        let (granted, decided) = (inserted.rows_affected(), self.leases.len());
        if granted != decided as u64 {
            return Err(TransactionError::Inconsistent { granted, decided });
        }
        Ok(())
    }
}

impl Pools {
    fn of(jobs: &[Job]) -> Self {
        let mut numbers = BTreeMap::new();
        for job in jobs {
            let wanted = job.want().map(|want| want.period.start);
            let given = job.work.give_backs.iter().map(|give_back| give_back.period_start);
            for start in wanted.into_iter().chain(given) {
                let number = numbers.len();
                numbers.entry(job.pool_key(start)).or_insert(number);
            }
        }
        let rows = vec![None; numbers.len()];
        Self { numbers, rows }
    }

    async fn lock(&mut self, connection: &mut PgConnection) -> Result<(), TransactionError> {
        let (mut accounts, mut usage_types, mut starts, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((account, usage_type, start), number) in &self.numbers {
            accounts.push(*account);
            usage_types.push(usage_type.clone());
            starts.push(instant(*start));
            numbers.push(*number as i64);
        }
        let rows = sqlx::query!(
            r#"select k.number as "number!", p.limit_units, p.granted_units
               from quota_pool p
               join unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[])
                    as k (account_id, usage_type, period_start, number)
                 on p.account_id = k.account_id and p.usage_type = k.usage_type and p.period_start = k.period_start
               order by p.account_id, p.usage_type, p.period_start
               for no key update of p"#,
            &accounts,
            &usage_types,
            &starts,
            &numbers
        )
        .fetch_all(connection)
        .await?;
        for row in rows {
            self.rows[row.number as usize] = Some(Pool {
                limit: row.limit_units,
                granted: row.granted_units,
            });
        }
        Ok(())
    }

    /// Questions for which there is no pool.
    fn missing<'a>(&mut self, jobs: &'a [Job]) -> Vec<&'a Job> {
        let is_missing = |job: &&Job| job.want().is_some_and(|want| self.of_want(job, want).is_none());
        jobs.iter().filter(is_missing).collect()
    }

    fn get_mut(&mut self, key: &PoolKey) -> Option<&mut Pool> {
        let number = self.numbers.get(key)?;
        self.rows[*number].as_mut()
    }

    fn of_want(&mut self, job: &Job, want: &Want) -> Option<&mut Pool> {
        self.get_mut(&job.pool_key(want.period.start))
    }
}

impl Job {
    fn want(&self) -> Option<&Want> {
        self.work.want.as_ref()
    }

    fn pool_key(&self, period_start: i64) -> PoolKey {
        (self.account.id.0, self.usage_type.name().to_owned(), period_start)
    }
}

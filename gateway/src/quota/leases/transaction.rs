//! The transaction that gives units back and takes leases, for many counters at once. `quota_store` contains its statements and
//! defines its lock order: the run, the spend caps, the pools, the leases. All decisions are made on locked rows.

use std::collections::BTreeMap;

use protocol::{
    clock::Answer,
    grant::{self, Pool},
    run::RunState,
};
use quota_store::{
    leases::{self, Grant, Return},
    pools::{self, NewPool, NewSpend, PoolKey},
    writers,
};
use schema::{LeaseId, RunId};
use sqlx::{Connection, PgConnection};

use super::{Job, Others, Want, capped::Capped};
use crate::{clock, quota::view::Spent};

/// The result of one job's lease request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The job requested no lease.
    Nothing,
    Granted {
        units: i64,
        pool: Pool,
    },
    Refused {
        pool: Pool,
        /// Set for requests only: a renewal does not recall.
        others: Others,
        /// What was spent, if the pool is under a spend cap.
        spent: Option<Spent>,
    },
    /// There is no pool: the requested plan is no longer the account's plan, it has no stored limit, or the spend cap is gone.
    NoPool,
}

#[derive(Debug)]
pub(crate) enum Executed {
    /// The run is no longer active, so nothing was done.
    RunLost { state: Option<RunState> },
    Done {
        /// One for each job, in the order of the jobs.
        decisions: Vec<Decision>,
        gateways: i64,
        units_returned: i64,
        /// What PostgreSQL's clock showed.
        clock: Answer,
    },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactionError {
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    #[error("{granted} of {decided} grants were made, though they were decided on locked rows")]
    Inconsistent { granted: u64, decided: usize },
}

/// The progress of an execution, in case it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// A commit was sent, so the leases that it granted may exist.
    pub commit_sent: bool,
}

/// Pools that a transaction locks, in the order of their keys.
struct Pools {
    numbers: BTreeMap<PoolKey, usize>,
    /// By number; `None`: there is no row.
    rows: Vec<Option<Pool>>,
}

/// Executes all jobs or none. It can be repeated with the same jobs after a failure: a lease id that already exists is read,
/// not granted again.
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
        let asked_ms = clock::elapsed_ms();
        let writer = writers::lock_for_grants(&mut transaction, run).await?;
        let answered_ms = clock::elapsed_ms();
        let Some(writer) = writer else {
            transaction.rollback().await?;
            return Ok(Executed::RunLost { state: None });
        };
        let gateways = writer.gateways.max(1);
        // A spooling run gets leases, too. Its events are acknowledged only from the spool of this run, and are in the run's
        // lanes before the lanes end. As with a live run, all its leases exist when it is fenced.
        if !writer.state.is_active() {
            transaction.rollback().await?;
            return Ok(Executed::RunLost {
                state: Some(writer.state),
            });
        }
        let mut capped = Capped::lock(&mut transaction, jobs).await?;
        pools.lock(&mut transaction).await?;
        let missing = pools.missing(jobs);
        if !missing.is_empty() && !opened {
            // Open pools in a separate transaction, before any pool is locked: it locks accounts, like changes of limits do.
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
        // After units came back.
        capped.read(&mut transaction, jobs).await?;
        let (mut decisions, grants) = decide(jobs, &mut pools, &mut capped, &known, gateways);
        insert(&mut transaction, run, &grants).await?;
        find_others(&mut transaction, run, jobs, &capped, &mut decisions).await?;
        progress.commit_sent = true;
        transaction.commit().await?;
        return Ok(Executed::Done {
            decisions,
            gateways,
            units_returned,
            clock: Answer {
                asked_ms,
                answered_ms,
                shown_ms: writer.now_ms,
            },
        });
    }
}

/// Decides on locked pools, in the order of the jobs, and adds the granted units to the pools.
fn decide(
    jobs: &[Job],
    pools: &mut Pools,
    capped: &mut Capped,
    known: &BTreeMap<LeaseId, i64>,
    gateways: i64,
) -> (Vec<Decision>, Vec<Grant>) {
    let mut grants = Vec::new();
    let mut decide_one = |job: &Job| {
        let Some(want) = job.want() else {
            return Decision::Nothing;
        };
        let Some(pool) = pools.of_want(job, want) else {
            return Decision::NoPool;
        };
        let key = job.pool_key(want.period.start);
        if job.pool_type.is_billed() {
            match capped.limit(&key) {
                Some(limit) => pool.limit = limit,
                None => return Decision::NoPool,
            }
        }
        if let Some(units) = known.get(&want.lease_id) {
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
                capped.grant(&key, units);
                grants.push(Grant {
                    lease: want.lease_id,
                    pool: key,
                    units,
                });
                Decision::Granted { units, pool: *pool }
            }
            _ => Decision::Refused {
                pool: *pool,
                others: Others::default(),
                spent: capped.spent(&key),
            },
        }
    };
    let decisions = jobs.iter().map(&mut decide_one).collect();
    (decisions, grants)
}

/// Inserts the leases, which were decided on locked rows.
async fn insert(connection: &mut PgConnection, run: RunId, grants: &[Grant]) -> Result<(), TransactionError> {
    if grants.is_empty() {
        return Ok(());
    }
    let granted = leases::grant(connection, run, grants).await?;
    if granted != grants.len() as u64 {
        let decided = grants.len();
        return Err(TransactionError::Inconsistent { granted, decided });
    }
    Ok(())
}

/// Finds other holders of leases, for the pools that could not cover a request's cost. It runs under the pools' locks, so every
/// granted unit that is not theirs is ours or spent. A run that is being fenced is left out: settling returns its units and
/// announces them.
async fn find_others(
    connection: &mut PgConnection,
    run: RunId,
    jobs: &[Job],
    capped: &Capped,
    decisions: &mut [Decision],
) -> Result<(), TransactionError> {
    let (mut asked, mut numbers) = (Vec::new(), Vec::new());
    for (number, (job, decision)) in jobs.iter().zip(&*decisions).enumerate() {
        if let (Decision::Refused { .. }, Some(want)) = (decision, job.want().filter(|want| want.ask.is_some())) {
            let key = job.pool_key(want.period.start);
            // Units of any pool under the cap make room.
            let keys = match job.pool_type.is_billed() {
                true => capped.beside(&key),
                false => vec![key],
            };
            numbers.extend(keys.iter().map(|_| number));
            asked.extend(keys);
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    for holder in leases::holders(connection, run, &asked).await? {
        let decision = numbers.get(holder.pool).and_then(|number| decisions.get_mut(*number));
        if let Some(Decision::Refused { others, .. }) = decision {
            match holder.in_reach {
                true if others.runs.contains(&holder.writer) => {}
                true => others.runs.push(holder.writer),
                false => others.out_of_reach = true,
            }
        }
    }
    Ok(())
}

/// Gives back units as absolute totals, and only of live leases, so repeating it changes nothing. Returns how many came back.
async fn give_back(
    connection: &mut PgConnection,
    run: RunId,
    jobs: &[Job],
    pools: &mut Pools,
) -> Result<i64, TransactionError> {
    let given = jobs.iter().flat_map(|job| &job.work.give_backs);
    let returns: Vec<_> = given
        .map(|give_back| Return {
            lease: give_back.lease_id,
            total_units: give_back.total,
            is_last: give_back.last,
        })
        .collect();
    if returns.is_empty() {
        return Ok(0);
    }
    let mut units = 0;
    for returned in leases::give_back(connection, run, &returns).await? {
        units += returned.units;
        if let Some(pool) = pools.get_mut(&returned.pool) {
            pool.granted = returned.granted_units;
        }
    }
    Ok(units)
}

/// Leases that an earlier execution with an unknown outcome granted.
async fn known_leases(connection: &mut PgConnection, jobs: &[Job]) -> Result<BTreeMap<LeaseId, i64>, TransactionError> {
    let ids: Vec<_> = jobs.iter().filter_map(Job::want).map(|want| want.lease_id).collect();
    Ok(leases::granted(connection, &ids).await?)
}

/// Opens pools for a new period, or for the first request of a usage type in it, with the limit in force. If this gateway's
/// copy of the account is outdated, nothing is opened: the account is read again first.
async fn open_pools(connection: &mut PgConnection, jobs: &[&Job]) -> Result<(), TransactionError> {
    let mut missing = Vec::new();
    for job in jobs {
        let Some(want) = job.want() else { continue };
        // A renewal has a pool already. If it is gone, there is no account state to open it with.
        let state = want.ask.as_ref().map(|ask| &ask.state);
        let facts = state.map(|state| &state.facts);
        let usage_type = job.pool_type.usage_type();
        let spend = state.and_then(|state| state.spend(usage_type));
        let rate = spend.and_then(|spend| spend.rate(usage_type));
        missing.push(NewPool {
            key: job.pool_key(want.period.start),
            usage_type: usage_type.name(),
            spend: spend
                .zip(rate)
                .filter(|_| job.pool_type.is_billed())
                .map(|(spend, rate)| NewSpend {
                    period_start: spend.period_start,
                    included: rate.included,
                    unit_price_micros: rate.unit_price_micros,
                }),
            period_end: want.period.end,
            plan: state.map(|state| state.current_plan.name.clone()),
            version: state.and_then(|state| Some(state.current_plan.version.as_ref()?.id)),
            subscription: facts.and_then(|facts| Some(facts.subscription.as_ref()?.id.0)),
            subscription_changed: facts.and_then(|facts| facts.subscription_changed),
        });
    }
    let mut transaction = connection.begin().await?;
    pools::open(&mut transaction, &missing).await?;
    transaction.commit().await?;
    Ok(())
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
        let mut keys: Vec<(&PoolKey, usize)> = self.numbers.iter().map(|(key, number)| (key, *number)).collect();
        keys.sort_unstable_by_key(|(_, number)| *number);
        let keys: Vec<PoolKey> = keys.into_iter().map(|(key, _)| key.clone()).collect();
        self.rows = pools::lock(connection, &keys).await?;
        Ok(())
    }

    /// Jobs whose lease request has no pool.
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
    pub(super) fn want(&self) -> Option<&Want> {
        self.work.want.as_ref()
    }

    pub(super) fn pool_key(&self, period_start: i64) -> PoolKey {
        PoolKey {
            account: self.account.id,
            usage_type: self.pool_type.name(),
            period_start,
        }
    }
}

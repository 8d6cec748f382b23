//! The lease client: the one task of a gateway that takes and gives back leases. Counters that need service while a
//! transaction runs go into the next one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::run::RunState;
use schema::RunId;
use service::Backoff;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Decision, Job,
    requests::{CounterId, LeaseRequests},
    transaction::{self, Executed, Progress},
};
use crate::{
    clock::{Clocks, Server},
    quota::counters::Counters,
};

pub(crate) struct LeaseClient {
    requests: Arc<LeaseRequests>,
    counters: Arc<Counters>,
    pool: PgPool,
    clocks: Clocks,
    queue: mpsc::UnboundedReceiver<CounterId>,
    limits: LeaseClientLimits,
    /// Everything was given back, or its deadline passed.
    ended: CancellationToken,
    pauses: Backoff,
}

pub(crate) struct LeaseClientLimits {
    /// Counters served by one transaction.
    pub counters_max: usize,
    /// How long a transaction is tried before PostgreSQL counts as unavailable.
    pub deadline: Duration,
}

impl LeaseClient {
    pub(crate) fn new(
        requests: Arc<LeaseRequests>,
        counters: Arc<Counters>,
        pool: PgPool,
        clocks: Clocks,
        queue: mpsc::UnboundedReceiver<CounterId>,
        limits: LeaseClientLimits,
        ended: CancellationToken,
    ) -> Self {
        Self {
            requests,
            counters,
            pool,
            clocks,
            queue,
            limits,
            ended,
            pauses: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
        }
    }

    /// Serves until everything was given back, or its deadline passed.
    pub(crate) async fn run(mut self) {
        let ended = self.ended.clone();
        let counters_max = self.limits.counters_max.max(1);
        let mut queued = Vec::new();
        loop {
            tokio::select! {
                _ = self.queue.recv_many(&mut queued, counters_max) => {}
                () = ended.cancelled() => return,
            }
            self.serve(&mut queued).await;
        }
    }

    async fn serve(&mut self, queued: &mut Vec<CounterId>) {
        // Take all counters out of the queue before reading the first. A counter that queues again is in the next transaction, so
        // none is in this one twice.
        let now = Instant::now();
        let jobs: Vec<Job> = queued
            .drain(..)
            .filter_map(|(account, pool_type)| {
                // A counter that nothing refers to holds nothing and owes nothing.
                let counters = self.counters.known(account)?;
                let work = counters.counter(pool_type).work(now)?;
                Some(Job {
                    account: Arc::clone(&counters.account),
                    pool_type,
                    work,
                    counters,
                })
            })
            .collect();
        if jobs.is_empty() {
            return;
        }
        let Some(run) = self.requests.run() else {
            self.give_up(jobs, Progress::default());
            return;
        };
        let mut progress = Progress::default();
        match self.execute(run, &jobs, &mut progress).await {
            Ok(Executed::Done {
                decisions,
                gateways,
                units_returned,
                clock,
            }) => {
                self.pauses.reset();
                self.clocks.hear(Server::Postgres, clock);
                self.count(&jobs, &decisions, gateways, units_returned);
                self.publish(run, jobs, decisions, gateways <= 1);
            }
            Ok(Executed::RunLost { state }) => {
                warn!(run.id = %run, state = state.map_or("not registered", RunState::as_str), "this run gets no more leases");
                self.requests.lose_run(run);
                self.give_up(jobs, progress);
            }
            Err(error) => {
                self.requests.metrics.transactions_failed.inc();
                warn!("cannot take or give back leases; requests spend the units at hand: {error:#}");
                let owing: Vec<_> = jobs
                    .iter()
                    .map(|job| (Arc::clone(&job.counters), job.pool_type))
                    .collect();
                self.requests.set_away(true);
                self.give_up(jobs, progress);
                self.outage().await;
                self.requests.set_away(false);
                for (counters, pool_type) in owing {
                    counters.counter(pool_type).request_service();
                }
            }
        }
    }

    /// Waits until PostgreSQL answers. Meanwhile requests for leases are refused at once, instead of waiting one by one.
    async fn outage(&mut self) {
        loop {
            let pause = self.pauses.next_delay();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.ended.cancelled() => return,
            }
            let probe = async {
                let mut connection = self.pool.acquire().await?;
                let result = sqlx::query!(r#"select true as "answers""#)
                    .fetch_one(&mut *connection)
                    .await;
                if result.is_err() {
                    drop(connection.detach());
                }
                result
            };
            if let Ok(Ok(_)) = tokio::time::timeout(self.limits.deadline, probe).await {
                info!("PostgreSQL is available again: leases are taken and given back");
                return;
            }
        }
    }

    /// Tries until the deadline.
    async fn execute(&self, run: RunId, jobs: &[Job], progress: &mut Progress) -> anyhow::Result<Executed> {
        let deadline = tokio::time::Instant::now() + self.limits.deadline;
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        loop {
            let error = match self.try_once(run, jobs, progress, deadline).await {
                Ok(executed) => return Ok(executed),
                Err(error) => error,
            };
            let next = tokio::time::Instant::now() + backoff.next_delay();
            if next >= deadline {
                return Err(error);
            }
            debug!("trying the lease transaction again: {error:#}");
            tokio::time::sleep_until(next).await;
        }
    }

    async fn try_once(
        &self,
        run: RunId,
        jobs: &[Job],
        progress: &mut Progress,
        deadline: tokio::time::Instant,
    ) -> anyhow::Result<Executed> {
        let mut connection = tokio::time::timeout_at(deadline, self.pool.acquire()).await??;
        let executing = transaction::execute(&mut connection, run, jobs, progress);
        let result = match tokio::time::timeout_at(deadline, executing).await {
            Ok(result) => result.map_err(anyhow::Error::from),
            Err(elapsed) => Err(elapsed.into()),
        };
        if result.is_err() {
            // Do not put it back into the pool: it might hold a transaction open or wait for an answer that never comes.
            drop(connection.detach());
        }
        result
    }

    fn publish(&self, run: RunId, jobs: Vec<Job>, decisions: Vec<Decision>, alone: bool) {
        let now = Instant::now();
        let mut deliveries = Vec::new();
        let mut owing = Vec::new();
        {
            let mut holders = self.counters.holders();
            if self.requests.run() != Some(run) {
                // The run was dropped meanwhile: its leases are settled elsewhere, so the waiting requests get no units.
                for job in &jobs {
                    job.counters.counter(job.pool_type).drop_work();
                }
                return;
            }
            for (job, decision) in jobs.into_iter().zip(decisions) {
                let Job {
                    account,
                    pool_type,
                    work,
                    counters,
                } = job;
                if decision == Decision::NoPool {
                    warn!(account.id = %account.id, pool = pool_type.name(), "no quota pool: the plan or its spend cap changed, or its limits are not stored");
                    self.requests.report_stale(account.id);
                }
                let counter = counters.counter(pool_type);
                deliveries.extend(counter.publish(work, decision, alone, now));
                holders.note(&counters);
                if counter.has_units_to_give() || self.requests.is_draining() && counter.owes() {
                    owing.push((counters, pool_type));
                }
            }
        }
        // Outside the lock: an answer that no request takes is dropped here, which puts its units back.
        for (reply, answer) in deliveries {
            drop(reply.send(answer));
        }
        for (counters, pool_type) in owing {
            counters.counter(pool_type).request_service();
        }
    }

    fn give_up(&self, jobs: Vec<Job>, progress: Progress) {
        let mut deliveries = Vec::new();
        {
            let mut holders = self.counters.holders();
            for job in jobs {
                let counter = job.counters.counter(job.pool_type);
                deliveries.extend(counter.give_up(job.work, progress.commit_sent));
                holders.note(&job.counters);
            }
        }
        for (reply, answer) in deliveries {
            drop(reply.send(answer));
        }
    }

    fn count(&self, jobs: &[Job], decisions: &[Decision], gateways: i64, units_returned: i64) {
        let metrics = &self.requests.metrics;
        metrics.transactions_committed.inc();
        metrics.gateways_live.set(gateways);
        metrics.units_returned.inc_by(units_returned.unsigned_abs());
        let returned = jobs
            .iter()
            .flat_map(|job| &job.work.give_backs)
            .filter(|given| given.last);
        metrics.leases_returned.inc_by(returned.count() as u64);
        for decision in decisions {
            if let Decision::Granted { units, .. } = decision {
                metrics.leases_granted.inc();
                metrics.units_granted.inc_by(units.unsigned_abs());
            }
        }
    }
}

//! The one task of a gateway that takes and gives back leases. What arrives while a transaction runs goes into the next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use schema::RunId;
use service::Backoff;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Decision, Desk, Job,
    desk::Attention,
    transaction::{self, Executed, Progress},
};
use crate::quota::{counter::Publication, quotas::QuotaSettings};

pub(crate) struct Broker {
    desk: Arc<Desk>,
    pool: PgPool,
    inbox: mpsc::UnboundedReceiver<Attention>,
    counters_max: usize,
    deadline: Duration,
    /// Everything was given back, or its deadline passed.
    ended: CancellationToken,
    pauses: Backoff,
}

impl Broker {
    pub fn new(
        desk: Arc<Desk>,
        pool: PgPool,
        inbox: mpsc::UnboundedReceiver<Attention>,
        settings: &QuotaSettings,
        ended: CancellationToken,
    ) -> Self {
        Self {
            desk,
            pool,
            inbox,
            counters_max: settings.transaction_counters_max.max(1),
            deadline: settings.transaction_deadline,
            ended,
            pauses: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
        }
    }

    pub async fn run(mut self) {
        let ended = self.ended.clone();
        let mut attentions = Vec::new();
        loop {
            tokio::select! {
                _ = self.inbox.recv_many(&mut attentions, self.counters_max) => {}
                () = ended.cancelled() => return,
            }
            self.serve(&mut attentions).await;
        }
    }

    async fn serve(&mut self, attentions: &mut Vec<Attention>) {
        // All are out of the queue before the first is looked at: a counter that queues again comes in the next batch, so
        // that none is twice in one transaction.
        let now = Instant::now();
        let jobs: Vec<Job> = attentions
            .drain(..)
            .filter_map(|(account, usage_type)| {
                let work = account.counter(usage_type).work(now)?;
                Some(Job {
                    account,
                    usage_type,
                    work,
                })
            })
            .collect();
        if jobs.is_empty() {
            return;
        }
        let Some(run) = self.desk.run() else {
            self.give_up(jobs, Progress::default());
            return;
        };
        let mut progress = Progress::default();
        match self.execute(run, &jobs, &mut progress).await {
            Ok(Executed::Done {
                decisions,
                gateways,
                units_returned,
            }) => {
                self.pauses.reset();
                self.count(&jobs, &decisions, gateways, units_returned);
                self.publish(run, jobs, decisions, gateways <= 1);
            }
            Ok(Executed::RunLost { state }) => {
                warn!(run.id = %run, state = state.as_deref().unwrap_or("not registered"), "this run gets no lease any more");
                self.desk.lose_run(run);
                self.give_up(jobs, progress);
            }
            Err(error) => {
                self.desk.metrics.transactions_failed.inc();
                warn!("leases cannot be taken or given back, spending what is held: {error:#}");
                let owing: Vec<Attention> = jobs
                    .iter()
                    .map(|job| (Arc::clone(&job.account), job.usage_type))
                    .collect();
                self.desk.set_away(true);
                self.give_up(jobs, progress);
                self.outage().await;
                self.desk.set_away(false);
                for (account, usage_type) in owing {
                    self.desk.attend(&account, usage_type);
                }
            }
        }
    }

    /// Waits until Postgres answers. Requests are refused at once meanwhile, and do not wait to find out one by one.
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
            if let Ok(Ok(_)) = tokio::time::timeout(self.deadline, probe).await {
                info!("PostgreSQL answers: leases can be taken and given back again");
                return;
            }
        }
    }

    /// Tries until the deadline.
    async fn execute(&self, run: RunId, jobs: &[Job], progress: &mut Progress) -> anyhow::Result<Executed> {
        let deadline = tokio::time::Instant::now() + self.deadline;
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
            // Back in the pool it might hold a transaction open, or wait for an answer that never comes.
            drop(connection.detach());
        }
        result
    }

    fn publish(&self, run: RunId, jobs: Vec<Job>, decisions: Vec<Decision>, alone: bool) {
        let now = Instant::now();
        let mut deliveries = Vec::new();
        let mut owing = Vec::new();
        {
            let mut holders = self.desk.holders();
            if self.desk.run() != Some(run) {
                // Dropped meanwhile: these leases are settled, not spent. Whoever waits finds its question gone.
                for job in &jobs {
                    job.account.counter(job.usage_type).drop_work();
                }
                return;
            }
            for (job, decision) in jobs.into_iter().zip(decisions) {
                let Job {
                    account,
                    usage_type,
                    work,
                } = job;
                if decision == Decision::NoPool {
                    warn!(account.id = %account.id, %usage_type, "no quota pool: the plan changed, or its limits are not stored");
                    self.desk.report_stale(&account);
                }
                let publication = Publication {
                    account: &account,
                    usage_type,
                    desk: &self.desk,
                    alone,
                    now,
                };
                let counter = account.counter(usage_type);
                deliveries.extend(counter.publish(work, decision, &publication));
                holders.note(&account);
                if counter.has_units_to_give() || self.desk.is_draining() && counter.owes() {
                    owing.push((account, usage_type));
                }
            }
        }
        // Outside of the lock: an answer that nobody takes is dropped here, and puts its units back.
        for (reply, answer) in deliveries {
            drop(reply.send(answer));
        }
        for (account, usage_type) in owing {
            self.desk.attend(&account, usage_type);
        }
    }

    fn give_up(&self, jobs: Vec<Job>, progress: Progress) {
        let mut deliveries = Vec::new();
        {
            let mut holders = self.desk.holders();
            for job in jobs {
                let counter = job.account.counter(job.usage_type);
                deliveries.extend(counter.give_up(job.work, progress.commit_sent));
                holders.note(&job.account);
            }
        }
        for (reply, answer) in deliveries {
            drop(reply.send(answer));
        }
    }

    fn count(&self, jobs: &[Job], decisions: &[Decision], gateways: i64, units_returned: i64) {
        let metrics = &self.desk.metrics;
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

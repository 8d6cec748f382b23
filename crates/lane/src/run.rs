//! One run of a writer, as other processes see it: a row with a counter that increases while the run lives, and a lane in
//! every shard.
//!
//! A run begins with its row. Then it opens all its lanes, and only then may it take leases. It ends in one of two ways. A
//! closed run has closed every lane, returned every lease and then closed its row. A run is given up when a lane, the
//! heartbeat or a lease finds that it was fenced. Then a new run starts, and other processes settle what the old run held.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::Client;
use futures_util::future::join_all;
use protocol::lane::End;
use quota_store::writers;
use schema::RunId;
use service::{Backoff, Health, Lifecycle};
use sqlx::PgPool;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use crate::{
    context::{LaneContext, LaneLimits},
    link::Link,
    metrics::LaneMetrics,
    publisher::{Entrance, Lanes, QueueLimits, Units},
    spool::{RunSpool, Spool, drain::Keeper, frame::Owner},
    stream::{self, UsageStream},
    subject::LaneSubject,
    task::LaneTask,
};

/// For one statement about a run.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is needed to begin a run.
#[derive(Clone)]
pub struct Runs {
    /// The writer's name, for people.
    pub name: String,
    pub pool: PgPool,
    pub client: Client,
    pub link: Link,
    pub health: Health,
    /// The run's tasks stop after the last request.
    pub life: Lifecycle,
    pub metrics: LaneMetrics,
    pub limits: RunLimits,
    /// Takes batches while NATS is unavailable. `None`: the run accepts nothing then.
    pub spool: Option<Spool>,
}

#[derive(Clone, Debug)]
pub struct RunLimits {
    pub heartbeat_interval: Duration,
    pub queue: QueueLimits,
    pub lane: LaneLimits,
}

/// A run with all its lanes open.
pub struct Run {
    pub id: RunId,
    fenced: CancellationToken,
    lanes: Vec<JoinHandle<End>>,
    pool: PgPool,
    spool: Option<KeptSpool>,
    /// Ends the heartbeat.
    _heartbeat: DropGuard,
}

/// A run's spool and its keeper task.
struct KeptSpool {
    spool: RunSpool,
    keeper: JoinHandle<()>,
    stop: CancellationToken,
}

impl Runs {
    /// Registers a run and opens its lanes. Tries until all of them are open. Fails only where a retry cannot help.
    pub async fn begin<U: Units>(&self) -> Result<(Run, Lanes<U>)> {
        const PART: &str = "lanes";
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        loop {
            self.health.down(PART, "opening");
            let stream = stream::wait_for(&self.client, &self.health, self.limits.lane.batch.bytes).await?;
            let id = RunId::new();
            self.register(id, &stream).await;
            let heartbeat = CancellationToken::new();
            let fenced = CancellationToken::new();
            self.life.spawn(beat(
                self.pool.clone(),
                id,
                self.limits.heartbeat_interval,
                heartbeat.clone(),
                fenced.clone(),
            ));
            let heartbeat = heartbeat.drop_guard();

            let opened = fenced.run_until_cancelled(self.open(id, &stream, &fenced)).await;
            if let Some(Some((entrances, tasks))) = opened {
                info!(run.id = %id, lanes = tasks.len(), generation = stream.generation, "opened the lanes of a new run");
                self.health.up(PART);
                let (tasks, spool) = self.keep_spool(id, &stream, tasks, &fenced)?;
                let run = Run {
                    id,
                    fenced,
                    spool,
                    lanes: tasks.into_iter().map(|task| self.life.spawn(task.run())).collect(),
                    pool: self.pool.clone(),
                    _heartbeat: heartbeat,
                };
                return Ok((run, Lanes::new(entrances)));
            }
            let delay = backoff.next_delay();
            warn!(run.id = %id, "the run was fenced before its lanes were open: beginning a new run in {delay:.1?}");
            tokio::time::sleep(delay).await;
        }
    }

    /// Opens all lanes at once. `None`: one of them is fenced.
    async fn open<U: Units>(
        &self,
        run: RunId,
        stream: &UsageStream,
        fenced: &CancellationToken,
    ) -> Option<(Vec<Entrance<U>>, Vec<LaneTask<U>>)> {
        let context = LaneContext {
            run,
            link: self.link.clone(),
            limits: self.limits.lane.clone(),
            metrics: self.metrics.clone(),
            fenced: fenced.clone(),
        };
        let lanes = (0..stream.shards).map(|shard| {
            let subject = LaneSubject::new(&self.client, &stream.stream, shard, run);
            let (entrance, gate, queue) = Entrance::new(self.limits.queue);
            let opening = LaneTask::open(context.clone(), subject, shard, gate, queue);
            async { Some((entrance, opening.await?)) }
        });
        join_all(lanes).await.into_iter().collect()
    }

    /// Gives each lane its part of the run's spool.
    fn keep_spool<U: Units>(
        &self,
        run: RunId,
        stream: &UsageStream,
        tasks: Vec<LaneTask<U>>,
        fenced: &CancellationToken,
    ) -> Result<(Vec<LaneTask<U>>, Option<KeptSpool>)> {
        let Some(spool) = &self.spool else {
            return Ok((tasks, None));
        };
        let (spool, lanes, feeds) = spool.of_run(Owner {
            run,
            generation: stream.generation,
            shards: stream.shards,
        })?;
        let tasks = tasks.into_iter().zip(lanes).map(|(task, lane)| task.with_spool(lane));
        let stop = CancellationToken::new();
        let keeper = Keeper {
            spool: spool.clone(),
            pool: self.pool.clone(),
            feeds,
            fenced: fenced.clone(),
            stopped: stop.clone(),
        };
        let keeper = self.life.spawn(keeper.run());
        Ok((tasks.collect(), Some(KeptSpool { spool, keeper, stop })))
    }

    async fn register(&self, id: RunId, stream: &UsageStream) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            // Sending it twice registers the run once, because the id is fixed.
            let insert = writers::register(&self.pool, id, &self.name, stream.generation, stream.shards);
            let failure = match timeout(STATEMENT_TIMEOUT, insert).await {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => failure.to_string(),
                Err(_) => format!("no answer within {STATEMENT_TIMEOUT:?}"),
            };
            let delay = backoff.next_delay();
            self.health.down("lanes", "registering the run in PostgreSQL fails");
            warn!(run.id = %id, "could not register the run ({failure}): retrying in {delay:.1?}");
            tokio::time::sleep(delay).await;
        }
    }
}

impl Run {
    /// Resolves when the run has to be given up.
    pub async fn fenced(&self) {
        self.fenced.cancelled().await;
    }

    /// Gives the run up because other processes are ending it. Its lanes accept nothing more.
    pub fn give_up(&self) {
        self.fenced.cancel();
    }

    /// Waits until every lane has sent its queue and is closed. The spool is then drained too. The caller removes the lanes
    /// from the publisher first. Fails if a lane ended in another way. Then the run must not be closed.
    pub async fn lanes_closed(&mut self) -> Result<()> {
        let ends = join_all(&mut self.lanes).await;
        self.lanes.clear();
        let closed = ends.iter().filter(|end| matches!(end, Ok(End::Closed))).count();
        if closed < ends.len() {
            bail!(
                "{} of {} lanes were not closed: the run is settled by others",
                ends.len() - closed,
                ends.len()
            );
        }
        Ok(())
    }

    /// Closes the run: nothing of it is in flight, and it holds nothing. Call it only after all lanes are closed and all
    /// leases are returned.
    pub async fn close(mut self) -> Result<()> {
        if let Some(KeptSpool { keeper, stop, .. }) = self.spool.as_mut() {
            stop.cancel();
            keeper.await.context("keeping the spool")?;
        }
        let closed = writers::close(&self.pool, self.id).await.context("closing the run")?;
        if !closed {
            bail!("the run could not be closed: it still holds leases, or is being ended by others, who settle it");
        }
        if let Some(KeptSpool { spool, .. }) = self.spool {
            spool.remove_directory().await?;
        }
        info!(run.id = %self.id, "closed the run");
        Ok(())
    }

    /// Stops publishing and leaves the spool for the next start. Returns the number of batches in the spool.
    pub async fn leave(self) -> u64 {
        // Lanes that have ended may have been awaited already.
        let at_work = self.lanes.into_iter().filter(|lane| !lane.is_finished());
        join_all(at_work.inspect(JoinHandle::abort)).await;
        match self.spool {
            Some(KeptSpool { spool, keeper, stop }) => {
                stop.cancel();
                keeper.await.ok();
                spool.backlog()
            }
            None => 0,
        }
    }
}

/// Increases the counter until `stop`, or until the row says that the run is being ended.
pub(crate) async fn beat(
    pool: PgPool,
    id: RunId,
    interval: Duration,
    stop: CancellationToken,
    fenced: CancellationToken,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut missed = 0u32;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let count_up = writers::beat(&pool, id);
        match stop.run_until_cancelled(timeout(STATEMENT_TIMEOUT, count_up)).await {
            None => return,
            Some(Ok(Ok(false))) => {
                error!(run.id = %id, "another process is ending the run: giving it up");
                fenced.cancel();
                return;
            }
            Some(Ok(Ok(true))) => {
                if missed > 0 {
                    info!(run.id = %id, missed, "the heartbeat is back");
                }
                missed = 0;
            }
            Some(failure) => {
                missed += 1;
                let why = match failure {
                    Ok(Err(failure)) => failure.to_string(),
                    _ => format!("no answer within {STATEMENT_TIMEOUT:?}"),
                };
                match missed {
                    1 => warn!(run.id = %id, "missed a heartbeat: {why}"),
                    _ => debug!(run.id = %id, missed, "missed a heartbeat: {why}"),
                }
            }
        }
    }
}

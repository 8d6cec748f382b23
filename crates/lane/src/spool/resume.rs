//! Drains the spool of a process that died, or that stopped before its spool was drained. Publishes its batches through the
//! lanes of the same run, each batch once, and hands the run over to the processes that settle it.
//!
//! Nothing is removed before all of it is stored. If something is wrong (another cluster, another generation of the stream,
//! damage), it fails and changes nothing.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{join_all, try_join_all};
use protocol::{
    lane::{End, Lane},
    spool_state::SpoolState,
};
use schema::RunId;
use service::Backoff;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Spool,
    frame::{Batch, Owner},
    log::{self, FoundLog, Segment},
    reader::Reader,
    registry::{self, Row},
};
use crate::{
    context::LaneContext,
    fence::fence,
    run::{Runs, beat},
    stream::{self, UsageStream},
    subject::LaneSubject,
    writer::Writer,
};

const PART: &str = "spool";

/// A spool that an earlier process left: its log, and the row of its run in PostgreSQL.
struct Left {
    run: RunId,
    dir: PathBuf,
    segments: Vec<Segment>,
    owner: Owner,
    row: Row,
}

/// A lane of the run. The first `stored` batches of the lane in the log are in the stream.
struct ResumedLane {
    writer: Writer,
    stored: u64,
}

impl Runs {
    /// Drains the spools that earlier processes left. Waits for the servers that it needs. Fails where an operator must
    /// decide.
    pub async fn drain_what_is_left(&self) -> Result<()> {
        let Some(spool) = &self.spool else { return Ok(()) };
        let directory = &spool.inner.directory;
        for run in directory.runs().context("reading the spool's directory (SPOOL_DIR)")? {
            let dir = directory.of_run(run);
            let drained = async {
                while !self.drain_run(spool, run).await? {
                    warn!(run.id = %run, "other processes ended the run while its spool was drained");
                }
                anyhow::Ok(())
            };
            drained
                .await
                .with_context(|| format!("draining the spool {} (SPOOL_DIR)", dir.display()))?;
        }
        self.health.up(PART);
        Ok(())
    }

    /// False: other processes have begun to end the run, so the caller checks it again.
    async fn drain_run(&self, spool: &Spool, run: RunId) -> Result<bool> {
        self.health.down(PART, "draining the spool of an earlier process");
        let left = self.look(spool, run).await?;
        if !left.row.state.is_resumable() {
            self.give_up(spool, &left).await?;
            return Ok(true);
        }
        let stream = stream::wait_for(&self.client, &self.health, self.limits.lane.batch.bytes).await?;
        ensure!(
            (stream.generation, stream.shards) == (left.owner.generation, left.owner.shards),
            "the spool belongs to generation {} of the stream ({} shards), but the stream has generation {} ({} shards): its \
             batches cannot be published any more. See \"The spool\" in docs/operations.md",
            left.owner.generation,
            left.owner.shards,
            stream.generation,
            stream.shards
        );
        // Use a new number. Then statements that the dead process sent to PostgreSQL change nothing from here on.
        let nth = left.row.spooled + 1;
        if !until_answered("taking the run over", || registry::enter(&self.pool, run, nth)).await {
            return Ok(false);
        }
        let (fenced, ended) = (CancellationToken::new(), CancellationToken::new());
        let _heartbeat = ended.clone().drop_guard();
        self.life.spawn(beat(
            self.pool.clone(),
            run,
            self.limits.heartbeat_interval,
            ended,
            fenced.clone(),
        ));
        let draining = self.drain_lanes(spool, &left, &stream, &fenced);
        match fenced.run_until_cancelled(draining).await {
            Some(drained) => drained.map(|()| true),
            None => Ok(false),
        }
    }

    async fn look(&self, spool: &Spool, run: RunId) -> Result<Left> {
        let dir = spool.inner.directory.of_run(run);
        let looking = dir.clone();
        let FoundLog {
            owner,
            segments,
            torn_bytes,
        } = tokio::task::spawn_blocking(move || log::find(&looking)).await??;
        if torn_bytes > 0 {
            warn!(run.id = %run, bytes = torn_bytes, "the last write to the spool was cut off; it was not acknowledged");
        }
        let Some(row) = until_answered("reading the run", || registry::find(&self.pool, run)).await else {
            bail!(
                "the spool belongs to run {run}, which this PostgreSQL does not know: is it the spool of another cluster \
                 (DATABASE_URL, SPOOL_DIR)? Nothing was changed"
            );
        };
        let of_row = Owner {
            run,
            generation: row.generation,
            shards: row.shards,
        };
        let owner = owner.unwrap_or(of_row);
        ensure!(
            owner == of_row,
            "the spool belongs to {owner:?}, but PostgreSQL has {of_row:?}"
        );
        Ok(Left {
            run,
            dir,
            segments,
            owner,
            row,
        })
    }

    async fn drain_lanes(
        &self,
        spool: &Spool,
        left: &Left,
        stream: &UsageStream,
        fenced: &CancellationToken,
    ) -> Result<()> {
        let context = LaneContext {
            run: left.run,
            link: self.link.clone(),
            limits: self.limits.lane.clone(),
            metrics: self.metrics.clone(),
            fenced: fenced.clone(),
        };
        let lanes = self.resumed_lanes(left, stream, &context).await?;
        let (feeds, fed): (Vec<_>, Vec<_>) = lanes
            .iter()
            .map(|_| mpsc::channel::<Batch>(super::DELIVERED_MAX))
            .unzip();
        let stored: Vec<u64> = lanes.iter().map(|lane| lane.stored).collect();
        let feeding = async {
            let mut passed = vec![0u64; stored.len()];
            let mut reader = Reader::new(left.dir.clone());
            while let Some(read) = reader.next(&left.segments).await? {
                let shard = usize::from(read.batch.shard);
                passed[shard] += 1;
                if passed[shard] > stored[shard] && feeds[shard].send(read.batch).await.is_err() {
                    bail!("a lane takes nothing more");
                }
            }
            drop(feeds);
            Ok(passed.into_iter().sum::<u64>())
        };
        let storing = join_all(lanes.into_iter().zip(fed).map(|(lane, mut fed)| async move {
            let (mut writer, mut drained, mut lost) = (lane.writer, 0u64, 0u64);
            while let Some(batch) = fed.recv().await {
                writer.store(batch.id, batch.empty, batch.record).await;
                match writer.lane.end() {
                    None => drained += 1,
                    Some(_) => lost += 1,
                }
            }
            match writer.lane.end() {
                Some(End::Failed(why)) => bail!("a lane cannot be written to: {why}"),
                _ => Ok((drained, lost)),
            }
        }));
        let (passed, counts) = tokio::join!(feeding, storing);
        let passed = passed?;
        let (mut drained, mut lost) = (0, 0);
        for count in counts {
            let (of_lane, lost_of_lane) = count?;
            drained += of_lane;
            lost += lost_of_lane;
        }
        spool.inner.metrics.drained.inc_by(drained);
        info!(run.id = %left.run, batches = passed, drained, "drained the spool of a run that had ended");
        if lost == 0 {
            let (dir, segments) = (left.dir.clone(), left.segments.clone());
            tokio::task::spawn_blocking(move || log::remove(&dir, &segments))
                .await?
                .context("removing the drained segments")?;
        }
        self.hand_over(left, stream).await;
        match lost {
            0 => spool
                .inner
                .directory
                .remove(left.run)
                .context("removing the drained spool"),
            _ => put_aside(spool, left.run, lost),
        }
    }

    /// Finds the state of each lane, and how much of the log is already stored.
    async fn resumed_lanes(
        &self,
        left: &Left,
        stream: &UsageStream,
        context: &LaneContext,
    ) -> Result<Vec<ResumedLane>> {
        let lanes = (0..left.owner.shards).map(|shard| async move {
            let subject = LaneSubject::new(&self.client, &stream.stream, shard, left.run);
            let timeout = self.limits.lane.attempt_timeout;
            let last = until_answered("reading a lane's last record", || subject.last_record(timeout)).await;
            let lane = Lane::resume(last).map_err(|why| anyhow::anyhow!("lane {}: {why}", subject.name()))?;
            anyhow::Ok((SpoolState::of(&lane), Writer::new(lane, subject, context.clone())))
        });
        let mut lanes: Vec<(SpoolState, Writer)> = try_join_all(lanes).await?;
        let mut reader = Reader::new(left.dir.clone());
        while let Some(read) = reader.next(&left.segments).await? {
            let shard = usize::from(read.batch.shard);
            let (spool_state, _) = lanes
                .get_mut(shard)
                .context("a batch is of a lane that the run does not have")?;
            spool_state.pass((&read.batch).into());
        }
        let resumed = |(shard, (spool_state, writer)): (usize, (SpoolState, Writer))| {
            let stored = spool_state.stored();
            let stored = stored.map_err(|why| anyhow::anyhow!("lane {shard} of run {}: {why}", left.run))?;
            Ok(ResumedLane { writer, stored })
        };
        lanes.into_iter().enumerate().map(resumed).collect()
    }

    /// Ends all lanes, then records that the run is over. Other processes settle its remaining leases.
    async fn hand_over(&self, left: &Left, stream: &UsageStream) {
        let timeout = self.limits.lane.attempt_timeout;
        let ends = (0..left.owner.shards).map(|shard| async move {
            let subject = LaneSubject::new(&self.client, &stream.stream, shard, left.run);
            until_answered("ending a lane", || fence(&subject, timeout)).await;
        });
        join_all(ends).await;
        until_answered("handing the run over", || registry::hand_over(&self.pool, left.run)).await;
        info!(run.id = %left.run, "handed the drained run over to be settled");
    }

    /// Other processes have ended the run. Batches in the log that are not in its lanes never will be.
    async fn give_up(&self, spool: &Spool, left: &Left) -> Result<()> {
        let mut batches = 0u64;
        let mut reader = Reader::new(left.dir.clone());
        while reader.next(&left.segments).await?.is_some() {
            batches += 1;
        }
        warn!(run.id = %left.run, state = left.row.state.as_str(), "the spool belongs to a run that other processes have ended");
        match batches {
            0 => spool
                .inner
                .directory
                .remove(left.run)
                .context("removing the empty spool"),
            _ => put_aside(spool, left.run, batches),
        }
    }
}

fn put_aside(spool: &Spool, run: RunId, batches: u64) -> Result<()> {
    spool.inner.metrics.lost.inc_by(batches);
    let aside = spool.inner.directory.give_up(run).context("putting the spool aside")?;
    error!(
        run.id = %run,
        batches,
        "the run was given up: acknowledged batches may not be in the stream and are kept in {}",
        aside.display()
    );
    Ok(())
}

/// Tries until the server answers. A start waits for servers that are not ready yet.
async fn until_answered<T>(what: &str, ask: impl AsyncFn() -> Result<T>) -> T {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(failure) => {
                let delay = backoff.next_delay();
                warn!("draining the spool: {what} failed ({failure:#}): retrying in {delay:.1?}");
                sleep(delay).await;
            }
        }
    }
}

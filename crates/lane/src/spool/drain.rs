//! Keeps a run's spool. It records in PostgreSQL that the run spools when a lane wants to append, delivers the log's
//! batches to the lanes, and records the end of spooling when all of them are stored.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use service::Backoff;
use sqlx::PgPool;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Delivered, RunSpool, appender::Order, log::Segment, reader::Reader, registry, room::Reason, switch::Mode};

/// How often the age of the oldest waiting batch is checked.
const LOOK: Duration = Duration::from_millis(250);
/// How long to wait for appends in progress after other processes have ended the run.
const LAST_APPENDS: Duration = Duration::from_secs(5);

/// The task that keeps a run's spool.
pub struct Keeper {
    pub spool: RunSpool,
    pub pool: PgPool,
    /// The senders to the lanes, in the order of the shards.
    pub feeds: Vec<mpsc::Sender<Delivered>>,
    /// Other processes are ending the run.
    pub fenced: CancellationToken,
    /// The run was closed, or this process leaves its spool to the next process.
    pub stopped: CancellationToken,
}

/// A segment with delivered batches.
struct UnderWay {
    index: u64,
    /// Batches that are delivered but not yet stored.
    batches: Arc<AtomicUsize>,
    /// When its first batch was appended.
    oldest_at_ms: i64,
}

impl Keeper {
    pub async fn run(self) {
        let (fenced, stopped) = (self.fenced.clone(), self.stopped.clone());
        tokio::select! {
            () = stopped.cancelled() => self.spool.change(|switch| switch.set_mode(Mode::Ended)),
            () = fenced.cancelled() => self.give_up().await,
            () = self.keep() => {}
        }
    }

    async fn keep(&self) {
        let spool = &self.spool;
        let mut nth = 0;
        loop {
            spool.until(|switch| switch.is_wanted()).await;
            nth += 1;
            spool.change(|switch| switch.set_mode(Mode::Entering));
            if !self.enter(nth).await {
                return self.ended_by_others().await;
            }
            spool.change(|switch| switch.set_mode(Mode::Spooling));
            spool.run.spool.inner.metrics.spooling.set(1);
            warn!(run.id = %spool.id(), "NATS is unavailable: spooling");
            self.drain().await;
            if !self.leave(nth).await {
                return self.ended_by_others().await;
            }
            spool.change(|switch| switch.set_mode(Mode::Direct));
            spool.run.spool.inner.metrics.spooling.set(0);
            info!(run.id = %spool.id(), "the spool is drained");
        }
    }

    /// Tries until it is known whether the run spools. A statement without an answer may have been executed.
    async fn enter(&self, nth: i64) -> bool {
        let spool = &self.spool;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        loop {
            let entered = async {
                self.make_directory().await?;
                registry::enter(&self.pool, spool.id(), nth).await
            };
            match entered.await {
                Ok(entered) => {
                    spool.room().set(Reason::Unregistered, false);
                    return entered;
                }
                Err(failure) => {
                    if backoff.tries() == 0 {
                        warn!(run.id = %spool.id(), "cannot spool, requests are refused: {failure:#}");
                    }
                    spool.room().set(Reason::Unregistered, true);
                    spool.change(|switch| switch.set_mode(Mode::Refused));
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn leave(&self, nth: i64) -> bool {
        let spool = &self.spool;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            match registry::leave(&self.pool, spool.id(), nth).await {
                Ok(left) => {
                    spool.room().set(Reason::Unregistered, false);
                    // The directory stays until here, so that a start that finds it can correct the row.
                    if let Err(failure) = self.remove_directory().await {
                        warn!(run.id = %spool.id(), "removing the empty spool: {failure:#}");
                    }
                    return left;
                }
                Err(failure) => {
                    if backoff.tries() == 0 {
                        warn!(run.id = %spool.id(), "cannot record that the spool is drained: {failure:#}");
                    }
                    spool.room().set(Reason::Unregistered, true);
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Runs until the log is empty and every lane is released.
    async fn drain(&self) {
        let spool = &self.spool;
        let mut changed = spool.run.changed.subscribe();
        let mut reader = Reader::new(spool.dir());
        let mut under_way: VecDeque<UnderWay> = VecDeque::new();
        let mut next = None;
        loop {
            if next.is_none() {
                let segments: Vec<Segment> = spool.segments().iter().copied().collect();
                match reader.next(&segments).await {
                    Ok(read) => next = read,
                    Err(failure) => {
                        error!(run.id = %spool.id(), "the spool cannot be read: {failure}");
                        spool.room().set(Reason::Disk, true);
                        sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                }
            }
            let delivered = under_way.iter().find(|segment| segment.batches.load(Relaxed) > 0);
            let waiting = next.as_ref().map(|read| read.appended_at_ms);
            self.look_at_age(delivered.map(|segment| segment.oldest_at_ms).or(waiting));
            if spool.switch().is_drained() {
                if self.clear().await {
                    return;
                }
                continue;
            }
            match next.take() {
                Some(read) => {
                    let Some(feed) = self.feeds.get(usize::from(read.batch.shard)) else {
                        error!(
                            shard = read.batch.shard,
                            "the spool has a batch for a lane that does not exist"
                        );
                        spool.change(|switch| switch.stored());
                        continue;
                    };
                    tokio::select! {
                        slot = feed.reserve() => match slot {
                            Ok(slot) => {
                                let of_segment = match under_way.back() {
                                    Some(segment) if segment.index == read.segment => Arc::clone(&segment.batches),
                                    _ => {
                                        let batches: Arc<AtomicUsize> = Arc::default();
                                        under_way.push_back(UnderWay {
                                            index: read.segment,
                                            batches: Arc::clone(&batches),
                                            oldest_at_ms: read.appended_at_ms,
                                        });
                                        batches
                                    }
                                };
                                of_segment.fetch_add(1, Relaxed);
                                slot.send(Delivered { batch: read.batch, of_segment });
                            }
                            // The lane has ended, and its run ends soon.
                            Err(_) => std::future::pending().await,
                        },
                        () = sleep(LOOK) => next = Some(read),
                    }
                }
                None => {
                    timeout(LOOK, changed.changed()).await.ok();
                }
            }
            self.remove_front(&reader, &mut under_way).await;
        }
    }

    /// Removes the segments that are completely stored. A segment that cannot be removed now is removed later.
    async fn remove_front(&self, reader: &Reader, under_way: &mut VecDeque<UnderWay>) {
        loop {
            let Some(front) = self.spool.segments().front().copied() else {
                return;
            };
            let is_stored = match under_way.front() {
                Some(segment) if segment.index == front.index => segment.batches.load(Relaxed) == 0,
                // It has no batch, for example after a failed write.
                _ => true,
            };
            if front.index >= reader.segment() || !is_stored {
                return;
            }
            if let Err(failure) = self.remove_segment().await {
                warn!("a drained segment of the spool cannot be removed: {failure}");
                return;
            }
            under_way.pop_front_if(|segment| segment.index == front.index);
        }
    }

    /// Everything is stored: removes the rest of the log, then releases the lanes. False: the log could not be removed, so
    /// the lanes stay members.
    async fn clear(&self) -> bool {
        let spool = &self.spool;
        let may = spool.change(|switch| {
            let may = switch.is_drained();
            if may {
                switch.set_mode(Mode::Clearing);
            }
            may
        });
        while may && !spool.segments().is_empty() {
            if let Err(failure) = self.remove_segment().await {
                error!(run.id = %spool.id(), "the drained spool cannot be removed: {failure}");
                spool.change(|switch| switch.set_mode(Mode::Spooling));
                sleep(Duration::from_secs(1)).await;
                return false;
            }
        }
        if may {
            self.look_at_age(None);
            spool.change(|switch| switch.release());
        }
        may
    }

    fn look_at_age(&self, oldest_at_ms: Option<i64>) {
        let inner = &self.spool.run.spool.inner;
        let age = oldest_at_ms.map_or(0, |at| schema::clock::now_ms().saturating_sub(at).max(0));
        inner.metrics.oldest_seconds.set(age as f64 / 1_000.0);
        let is_old = u128::from(age.unsigned_abs()) > inner.settings.age_max.as_millis();
        inner.room.set(Reason::Old, is_old);
    }

    async fn remove_segment(&self) -> std::io::Result<()> {
        let (reply, removed) = oneshot::channel();
        let order = Order::RemoveFront { reply };
        let gone = || std::io::Error::other("the spool's thread is gone");
        self.spool.run.orders.send(order).map_err(|_| gone())?;
        removed.await.map_err(|_| gone())?
    }

    async fn make_directory(&self) -> Result<()> {
        let (spool, run) = (self.spool.run.spool.clone(), self.spool.id());
        let made = tokio::task::spawn_blocking(move || spool.inner.directory.create(run));
        made.await?.context("making the run's directory in the spool")
    }

    async fn remove_directory(&self) -> Result<()> {
        self.spool.remove_directory().await
    }

    /// PostgreSQL says that other processes are ending the run. Gives up the lanes.
    async fn ended_by_others(&self) {
        error!(run.id = %self.spool.id(), "another process is ending the run: giving it up");
        self.fenced.cancel();
        std::future::pending().await
    }

    /// Other processes have ended the run. Batches in the log that are not in the stream are lost to the run. Moves the log
    /// to `given-up`.
    async fn give_up(&self) {
        let spool = &self.spool;
        spool.change(|switch| switch.set_mode(Mode::Ended));
        timeout(LAST_APPENDS, spool.until(|switch| !switch.is_appending()))
            .await
            .ok();
        let lost = spool.backlog();
        let inner = Arc::clone(&spool.run.spool.inner);
        inner.metrics.spooling.set(0);
        self.look_at_age(None);
        inner.room.set(Reason::Unregistered, false);
        if spool.segments().is_empty() {
            self.remove_directory().await.ok();
            return;
        }
        let run = spool.id();
        let aside = tokio::task::spawn_blocking(move || inner.directory.give_up(run)).await;
        let aside = match aside {
            Ok(Ok(path)) => path.display().to_string(),
            failure => format!("its directory (moving it failed: {failure:?})"),
        };
        spool.run.spool.inner.metrics.lost.inc_by(lost);
        error!(
            run.id = %run,
            batches = lost,
            "the run was ended while it spooled: acknowledged batches are not in the stream and are kept in {aside}"
        );
    }
}

impl RunSpool {
    pub(crate) async fn remove_directory(&self) -> Result<()> {
        let (spool, run) = (self.run.spool.clone(), self.id());
        let removed = tokio::task::spawn_blocking(move || spool.inner.directory.remove(run));
        removed.await?.context("removing the run's directory from the spool")
    }
}

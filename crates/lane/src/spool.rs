//! The spool stores batches while NATS is unavailable, so that they can be acknowledged.
//!
//! | what | file |
//! |---|---|
//! | the bytes of a segment, pure | [`frame`] |
//! | segments on the disk; their directory and its lock | [`log`], [`directory`] |
//! | the writer thread: one fsync for all waiting appends | [`appender`] |
//! | who may append, and when spooling ends, pure; whether there is room | [`switch`], [`room`] |
//! | the row in PostgreSQL | [`registry`] |
//! | publishing to the stream, in order, when NATS is back | [`drain`], [`reader`] |
//! | the spool of a process that died | [`resume`], [`protocol::spool_state`] |
//! | metrics | [`metrics`] |
//!
//! # Invariants
//! - A batch is acknowledged when it is fsynced in the log and the row of its run says `spooling`. Silence does not move
//!   such a row to `fencing`; only an operator does.
//! - The log has the batches of a lane in the order in which they go into the stream. The first is the one that was in
//!   flight when NATS went away. A lane with a batch in the log publishes nothing else until the log is empty. So the
//!   lane's last record shows how much of the log is stored.
//! - Segments are removed from the front, each durably before the next, and only when all of the segment is stored.

pub mod appender;
pub mod directory;
pub mod drain;
pub mod frame;
pub mod log;
pub mod metrics;
pub mod reader;
pub mod registry;
pub mod resume;
pub mod room;
pub mod switch;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use schema::RunId;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use self::{
    appender::Order,
    directory::Directory,
    frame::{Batch, Owner},
    log::{AppendError, Segment},
    metrics::SpoolMetrics,
    room::Room,
    switch::{AppendPermission, Switch},
};

/// How long an append waits until PostgreSQL has recorded that the run spools.
const ENTER_WITHIN: Duration = Duration::from_millis(1_800);
/// The maximum number of batches between the log and one lane.
const DELIVERED_MAX: usize = 2;
/// The spool counts as draining for this time after one of its batches was stored.
const MOVING_WITHIN_MS: u64 = 500;

#[derive(Clone, Debug)]
pub struct SpoolSettings {
    pub dir: PathBuf,
    /// The maximum size of all segments together.
    pub bytes_max: u64,
    /// The spool accepts nothing while a batch has waited for longer.
    pub age_max: Duration,
    /// The approximate size of one segment.
    pub segment_bytes: u64,
    /// The maximum size of one append. The spool is full when it has no room for some such appends.
    pub batch_bytes: u64,
}

/// The spool of one process. Cheap to clone.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

struct Inner {
    directory: Directory,
    settings: SpoolSettings,
    room: Arc<Room>,
    metrics: SpoolMetrics,
}

/// The spool of one run. Cheap to clone.
#[derive(Clone)]
pub struct RunSpool {
    run: Arc<RunInner>,
}

struct RunInner {
    spool: Spool,
    owner: Owner,
    switch: Mutex<Switch>,
    /// Notified of every change of the switch.
    changed: watch::Sender<()>,
    orders: std::sync::mpsc::Sender<Order>,
    /// The durable part of the log.
    segments: Arc<Mutex<VecDeque<Segment>>>,
    began: Instant,
    /// The time when a batch of the log was last stored: milliseconds since `began`, plus one. 0: never.
    moved_ms: AtomicU64,
}

/// A lane's part of a run's spool.
pub struct LaneSpool {
    pub spool: RunSpool,
    pub shard: u16,
    /// The batches to publish, in order.
    pub delivered: mpsc::Receiver<Delivered>,
}

/// A batch of the log on its way into the stream.
pub struct Delivered {
    pub batch: Batch,
    /// Batches of its segment that were delivered but are not yet stored.
    of_segment: Arc<AtomicUsize>,
}

/// Why a batch is not in the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// PostgreSQL has not recorded that the run spools, or the run is over.
    #[error("the run may not spool now")]
    Refused,
    #[error("the spool is full")]
    Full,
    #[error(transparent)]
    Failed(#[from] AppendError),
}

impl Spool {
    /// Locks the directory. Fails if another process uses it. Blocks.
    pub fn open(settings: SpoolSettings) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner {
                directory: Directory::lock(&settings.dir)?,
                settings,
                room: Arc::default(),
                metrics: SpoolMetrics::default(),
            }),
        })
    }

    pub fn room(&self) -> &Arc<Room> {
        &self.inner.room
    }

    pub fn metrics(&self) -> &SpoolMetrics {
        &self.inner.metrics
    }

    /// Whether a run of this process spools, as PostgreSQL has it.
    pub fn is_spooling(&self) -> bool {
        self.inner.metrics.spooling.get() > 0
    }

    /// Whether this or another process has left a run here.
    pub fn has_runs(&self) -> Result<bool> {
        let runs = self.inner.directory.runs();
        Ok(!runs.context("reading the spool's directory")?.is_empty())
    }

    /// Creates the spool of a new run, with a part for each of its lanes and the senders that [`drain::Keeper`] needs to
    /// serve them.
    pub(crate) fn of_run(&self, owner: Owner) -> Result<(RunSpool, Vec<LaneSpool>, Vec<mpsc::Sender<Delivered>>)> {
        let (orders, taken) = std::sync::mpsc::channel();
        let run = RunSpool {
            run: Arc::new(RunInner {
                spool: self.clone(),
                owner,
                switch: Mutex::default(),
                changed: watch::Sender::default(),
                orders,
                segments: Arc::default(),
                began: Instant::now(),
                moved_ms: AtomicU64::new(0),
            }),
        };
        appender::start(&run, taken).context("starting the spool's thread")?;
        let (lanes, feeds) = (0..owner.shards)
            .map(|shard| {
                let (feed, delivered) = mpsc::channel(DELIVERED_MAX);
                let lane = LaneSpool {
                    spool: run.clone(),
                    shard,
                    delivered,
                };
                (lane, feed)
            })
            .unzip();
        Ok((run, lanes, feeds))
    }
}

impl RunSpool {
    pub fn id(&self) -> RunId {
        self.run.owner.run
    }

    pub fn room(&self) -> &Room {
        &self.run.spool.inner.room
    }

    /// The same room, as an owned reference.
    pub fn shared_room(&self) -> Arc<Room> {
        Arc::clone(&self.run.spool.inner.room)
    }

    /// Batches in the log that are not known to be stored.
    pub fn backlog(&self) -> u64 {
        self.switch().backlog()
    }

    /// The batch is durable when this returns. Waits a short time until the run may spool. A lane that is not yet a member
    /// sets `joins`. Then this returns the number of the release that ends the membership, see [`Self::released`].
    ///
    /// Await it to its end: if the future is dropped, the batch may still be in the log.
    pub async fn append(&self, batch: Batch, joins: bool) -> Result<u64, SpoolError> {
        let metrics = &self.run.spool.inner.metrics;
        let granted = {
            let _wanting = Wanting::of(self);
            timeout(ENTER_WITHIN, self.granted()).await.unwrap_or(false)
        };
        if !granted {
            metrics.refused.inc();
            return Err(SpoolError::Refused);
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.run.orders.send(Order::Append { batch, reply });
        let appended = match sent {
            Ok(()) => answer.await.unwrap_or(Err(SpoolError::Refused)),
            Err(_) => Err(SpoolError::Refused),
        };
        match &appended {
            Ok(()) => metrics.appended.inc(),
            Err(SpoolError::Failed(_)) => 0,
            Err(_) => metrics.refused.inc(),
        };
        self.change(|switch| {
            let release = match appended.is_ok() && joins {
                true => switch.join(),
                false => switch.releases() + 1,
            };
            switch.appended();
            appended.map(|()| release)
        })
    }

    /// Asks until the switch grants or refuses the append. False: refused.
    async fn granted(&self) -> bool {
        let mut changed = self.run.changed.subscribe();
        loop {
            match self.switch().ask() {
                AppendPermission::Granted => return true,
                AppendPermission::Refused => return false,
                AppendPermission::Wait => {}
            }
            if changed.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Stops this member's appends until [`Self::hold_no_more`].
    pub fn hold(&self) {
        self.change(Switch::hold);
    }

    /// False: the member was released meanwhile.
    pub async fn hold_no_more(&self, release: u64) -> bool {
        let mut changed = self.run.changed.subscribe();
        loop {
            {
                let mut switch = self.switch();
                if switch.releases() >= release {
                    return false;
                }
                if switch.hold_no_more() {
                    return true;
                }
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when the log is empty and its members continue without it.
    pub async fn released(&self, release: u64) {
        self.until(|switch| switch.releases() >= release).await;
    }

    /// Records that the batch is in the stream.
    pub fn stored(&self, delivered: &Delivered) {
        delivered.of_segment.fetch_sub(1, Relaxed);
        self.run.moved_ms.store(self.age_ms() + 1, Relaxed);
        self.run.spool.inner.metrics.drained.inc();
        self.change(Switch::stored);
    }

    /// Whether batches of the log are reaching the stream.
    pub fn is_moving(&self) -> bool {
        match self.run.moved_ms.load(Relaxed) {
            0 => false,
            moved => self.age_ms().saturating_sub(moved - 1) < MOVING_WITHIN_MS,
        }
    }

    /// How long the run exists.
    fn age_ms(&self) -> u64 {
        u64::try_from(self.run.began.elapsed().as_millis()).expect("a process does not run for 584 million years")
    }

    async fn until(&self, holds: impl Fn(&Switch) -> bool) {
        let mut changed = self.run.changed.subscribe();
        loop {
            if holds(&self.switch()) {
                return;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Changes the switch and notifies all waiters.
    fn change<T>(&self, change: impl FnOnce(&mut Switch) -> T) -> T {
        let (result, backlog) = {
            let mut switch = self.switch();
            (change(&mut switch), switch.backlog())
        };
        self.run
            .spool
            .inner
            .metrics
            .batches
            .set(i64::try_from(backlog).unwrap_or(i64::MAX));
        self.run.changed.send_replace(());
        result
    }

    fn switch(&self) -> MutexGuard<'_, Switch> {
        self.run.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> MutexGuard<'_, VecDeque<Segment>> {
        self.run.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self) -> PathBuf {
        self.run.spool.inner.directory.of_run(self.id())
    }
}

/// Marks a caller that wants to append, until it is dropped.
struct Wanting<'a>(&'a RunSpool);

impl<'a> Wanting<'a> {
    fn of(spool: &'a RunSpool) -> Self {
        spool.change(Switch::want);
        Self(spool)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.change(Switch::want_no_more);
    }
}

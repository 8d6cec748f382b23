//! The spool: where batches go while NATS is away, so that they can be acknowledged.
//!
//! | what | file |
//! |---|---|
//! | bytes of a segment, pure | [`frame`] |
//! | segments on the disk; their directory and its lock | [`log`], [`directory`] |
//! | the thread that writes: one fsync for all who wait | [`appender`] |
//! | who may append, and when it is over, pure; whether there is room | [`switch`], [`room`] |
//! | the row in PostgreSQL | [`registry`] |
//! | into the stream, in order, when NATS is back | [`drain`], [`reader`] |
//! | the spool of a process that died | [`resume`], [`protocol::spool_state`] |
//! | what is counted | [`metrics`] |
//!
//! # Invariants
//! - A batch is acknowledged when it is fsynced in the log and the row of its run says `spooling`. Such a row is not taken
//!   to `fencing` for its silence, only by an operator.
//! - Of one lane, the log has the batches in the order in which they go into the stream, and the first is the one that was
//!   under way when NATS went away. A lane that has something in the log publishes nothing else before the log is empty. So
//!   its last record tells how much of the log is stored.
//! - Segments are removed from the front, each durably before the next, and only when all of it is stored.

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
    switch::{Switch, Told},
};

/// How long an append waits for PostgreSQL to take it that the run spools.
const ENTER_WITHIN: Duration = Duration::from_millis(1_800);
/// Batches that are on their way from the log to one lane.
const DELIVERED_MAX: usize = 2;
/// A batch of the spool was stored so recently: it is being drained.
const MOVING_WITHIN: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct SpoolSettings {
    pub dir: PathBuf,
    /// Of all segments together.
    pub bytes_max: u64,
    /// Nothing is taken while something waits for longer.
    pub age_max: Duration,
    /// Of one segment, about.
    pub segment_bytes: u64,
    /// The most that one append may bring; the spool is full when it has no room for some of them.
    pub batch_bytes: u64,
}

/// Of one process. Cheap to clone.
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

/// Of one run. Cheap to clone.
#[derive(Clone)]
pub struct RunSpool {
    run: Arc<RunInner>,
}

struct RunInner {
    spool: Spool,
    owner: Owner,
    switch: Mutex<Switch>,
    /// Told of every change of the switch.
    changed: watch::Sender<()>,
    orders: std::sync::mpsc::Sender<Order>,
    /// The log as far as it is durable.
    segments: Arc<Mutex<VecDeque<Segment>>>,
    began: Instant,
    /// When a batch of the log was last stored: milliseconds since `began`, and one; 0: never.
    moved_ms: AtomicU64,
}

/// A lane's end of it.
pub struct LaneSpool {
    pub spool: RunSpool,
    pub shard: u16,
    /// What is to be published, in order.
    pub delivered: mpsc::Receiver<Delivered>,
}

/// A batch of the log on its way into the stream.
pub struct Delivered {
    pub batch: Batch,
    /// Batches of its segment that were delivered and are not stored.
    of_segment: Arc<AtomicUsize>,
}

/// Why a batch is not in the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// PostgreSQL does not take it that the run spools, or the run is over.
    #[error("the run may not spool now")]
    Refused,
    #[error("the spool is full")]
    Full,
    #[error(transparent)]
    Failed(#[from] AppendError),
}

impl Spool {
    /// Locks the directory. Fails when another process uses it. Blocks.
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

    /// A run of this process spools, as PostgreSQL has it.
    pub fn is_spooling(&self) -> bool {
        self.inner.metrics.spooling.get() > 0
    }

    /// Something was left here, by this process or another.
    pub fn has_runs(&self) -> Result<bool> {
        let runs = self.inner.directory.runs();
        Ok(!runs.context("reading the spool's directory")?.is_empty())
    }

    /// The spool of a new run, with an end for each of its lanes and what [`drain::keep`] needs to serve them.
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

    /// The same, to keep.
    pub fn shared_room(&self) -> Arc<Room> {
        Arc::clone(&self.run.spool.inner.room)
    }

    /// Batches in the log that are not known to be stored.
    pub fn backlog(&self) -> u64 {
        self.switch().backlog()
    }

    /// Durable when it returns. Waits until the run may spool, for a short time. A lane that is not a member `joins` with
    /// its batch: then the number of the release that ends this is returned, see [`Self::released`].
    ///
    /// To be awaited to its end: dropped, the batch may be in the log all the same.
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

    /// Asks until there is an answer. False: refused.
    async fn granted(&self) -> bool {
        let mut changed = self.run.changed.subscribe();
        loop {
            match self.switch().ask() {
                Told::Granted => return true,
                Told::Refused => return false,
                Told::Wait => {}
            }
            if changed.changed().await.is_err() {
                return false;
            }
        }
    }

    /// This member appends nothing until [`Self::hold_no_more`].
    pub fn hold(&self) {
        self.change(Switch::hold);
    }

    /// False: it was released meanwhile.
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

    /// Resolves when the log is empty and its members go on without it.
    pub async fn released(&self, release: u64) {
        self.until(|switch| switch.releases() >= release).await;
    }

    /// The batch is in the stream.
    pub fn stored(&self, delivered: &Delivered) {
        delivered.of_segment.fetch_sub(1, Relaxed);
        let since = self.run.began.elapsed().as_millis() as u64;
        self.run.moved_ms.store(since + 1, Relaxed);
        self.run.spool.inner.metrics.drained.inc();
        self.change(Switch::stored);
    }

    /// Batches of the log are reaching the stream.
    pub fn is_moving(&self) -> bool {
        let since = self.run.began.elapsed().as_millis() as u64;
        match self.run.moved_ms.load(Relaxed) {
            0 => false,
            moved => since.saturating_sub(moved - 1) < MOVING_WITHIN.as_millis() as u64,
        }
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

    /// Changes the switch and tells all who wait.
    fn change<T>(&self, change: impl FnOnce(&mut Switch) -> T) -> T {
        let (told, backlog) = {
            let mut switch = self.switch();
            (change(&mut switch), switch.backlog())
        };
        self.run.spool.inner.metrics.batches.set(backlog as i64);
        self.run.changed.send_replace(());
        told
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

/// Somebody who wants to append.
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

//! The thread that owns a run's log. It writes all waiting appends in one write with one fsync, and removes segments.

use std::{
    sync::{
        Arc, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    RunSpool, SpoolError, SpoolSettings,
    frame::{self, Batch},
    log::{AppendError, Log},
    metrics::SpoolMetrics,
    room::{Reason, Room},
};

/// The limits of one write. All lanes together bring fewer batches; the limit bounds the memory.
const WRITE_BATCHES_MAX: usize = 1_024;
const WRITE_BYTES_MAX: usize = 16 << 20;
/// The time from a disk failure to the next try.
const RETRY_AFTER: Duration = Duration::from_secs(2);

pub enum Order {
    Append {
        batch: Batch,
        reply: oneshot::Sender<Result<(), SpoolError>>,
    },
    /// Removes the first segment, after all of it is stored.
    RemoveFront {
        reply: oneshot::Sender<std::io::Result<()>>,
    },
}

type Waiter = oneshot::Sender<Result<(), SpoolError>>;

/// Starts the thread, which ends when the run's spool is dropped.
pub(super) fn start(run: &RunSpool, orders: Receiver<Order>) -> std::io::Result<()> {
    let inner = &run.run.spool.inner;
    let appender = Appender {
        log: Log::new(run.dir(), run.run.owner, inner.settings.segment_bytes),
        settings: inner.settings.clone(),
        room: Arc::clone(&inner.room),
        metrics: inner.metrics.clone(),
        run: Arc::downgrade(&run.run),
        failed_at: None,
        is_broken: false,
    };
    std::thread::Builder::new()
        .name("spool".to_owned())
        .spawn(move || appender.run(&orders))
        .map(drop)
}

struct Appender {
    log: Log,
    settings: SpoolSettings,
    room: Arc<Room>,
    metrics: SpoolMetrics,
    /// Weak, because the run holds the sender of this thread's orders.
    run: std::sync::Weak<super::RunInner>,
    /// When the disk failed. The thread tries the disk again later.
    failed_at: Option<Instant>,
    /// The log may end with a batch that was not acknowledged. The thread appends nothing more to it.
    is_broken: bool,
}

impl Appender {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut held = None;
        loop {
            let order = match held.take() {
                Some(order) => order,
                None => match orders.recv_timeout(RETRY_AFTER) {
                    Ok(order) => order,
                    Err(RecvTimeoutError::Timeout) => {
                        self.try_disk_again();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            match order {
                Order::Append { batch, reply } => {
                    let (mut batches, mut waiters, mut size) = (Vec::new(), Vec::new(), batch.size());
                    batches.push(batch);
                    waiters.push(reply);
                    while batches.len() < WRITE_BATCHES_MAX && size < WRITE_BYTES_MAX {
                        match orders.try_recv() {
                            Ok(Order::Append { batch, reply }) => {
                                size += batch.size();
                                batches.push(batch);
                                waiters.push(reply);
                            }
                            Ok(other) => {
                                held = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(batches, waiters);
                }
                Order::RemoveFront { reply } => {
                    let removed = self.log.remove_front();
                    if removed.is_ok() && self.log.bytes() == 0 {
                        // Any unacknowledged batch at its end is gone too.
                        self.is_broken = false;
                    }
                    self.show();
                    reply.send(removed).ok();
                }
            }
        }
    }

    fn append(&mut self, mut batches: Vec<Batch>, mut waiters: Vec<Waiter>) {
        self.try_disk_again();
        if self.failed_at.is_some() || self.is_broken {
            return refuse(waiters);
        }
        // Take the batches that fit, in order. A later batch of a lane waits only for the answer to the earlier one.
        let mut bytes = self.log.bytes() + frame::frame_bytes(0);
        let fitting = batches.iter().take_while(|batch| {
            bytes += batch.size() as u64;
            bytes <= self.settings.bytes_max
        });
        let fitting = fitting.count();
        refuse(waiters.split_off(fitting));
        batches.truncate(fitting);
        if batches.is_empty() {
            return self.show();
        }
        let began = Instant::now();
        let appended = self.log.append(&batches, schema::clock::now_ms());
        self.metrics.fsync_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.batches_per_write.observe(batches.len() as f64);
        match appended {
            Ok(()) => {
                if let Some(run) = self.run.upgrade() {
                    // Before any reader can read the batches and report them as stored.
                    let mut switch = run.switch.lock().unwrap_or_else(PoisonError::into_inner);
                    switch.add(batches.len() as u64);
                }
                self.show();
                for waiter in waiters {
                    waiter.send(Ok(())).ok();
                }
            }
            Err(failure) => self.fail(failure, waiters),
        }
    }

    fn fail(&mut self, failure: AppendError, waiters: Vec<Waiter>) {
        self.metrics.failed.inc();
        self.room.set(Reason::Disk, true);
        self.failed_at = Some(Instant::now());
        self.is_broken = matches!(failure, AppendError::Unknown(_));
        match self.is_broken {
            true => error!("the spool accepts nothing more until it is drained: {failure}"),
            false => warn!("the spool accepts nothing for {RETRY_AFTER:?}: {failure}"),
        }
        let kind = |error: &std::io::Error| std::io::Error::new(error.kind(), error.to_string());
        for waiter in waiters {
            let same = match &failure {
                AppendError::NotWritten(error) => AppendError::NotWritten(kind(error)),
                AppendError::Unknown(error) => AppendError::Unknown(kind(error)),
            };
            waiter.send(Err(same.into())).ok();
        }
        self.show();
    }

    /// Checks a failed disk again. A failed write is never repeated: the next write begins a new segment.
    fn try_disk_again(&mut self) {
        let Some(failed_at) = self.failed_at else { return };
        if self.is_broken || failed_at.elapsed() < RETRY_AFTER {
            return;
        }
        match self.log.probe() {
            Ok(()) => {
                self.failed_at = None;
                info!("the spool's disk accepts writes again");
            }
            Err(_) => self.failed_at = Some(Instant::now()),
        }
        self.show();
    }

    /// Publishes the current state of the log.
    fn show(&self) {
        let bytes = self.log.bytes();
        // Each lane may still bring a batch that was reserved before it knew that the spool is full.
        let shards = u64::from(self.log.owner().shards);
        let headroom = (shards * self.settings.batch_bytes).min(self.settings.bytes_max / 2);
        self.room.set(Reason::Full, bytes + headroom >= self.settings.bytes_max);
        self.room.set(Reason::Disk, self.failed_at.is_some() || self.is_broken);
        self.metrics.bytes.set(bytes.cast_signed());
        if let Some(run) = self.run.upgrade() {
            *run.segments.lock().unwrap_or_else(PoisonError::into_inner) = self.log.segments().collect();
            run.changed.send_replace(());
        }
    }
}

fn refuse(waiters: Vec<Waiter>) {
    for waiter in waiters {
        waiter.send(Err(SpoolError::Full)).ok();
    }
}

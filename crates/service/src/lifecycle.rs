//! The life of a service. Tasks are spawned on a tracker so that a shutdown can wait for them, and one token stops them
//! all.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};
use tracing::{error, info};

use crate::Health;

/// Cheap to clone. All clones share one life.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    /// Cancelled by a signal, some time before `stopping`.
    leaving: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Counts vital tasks that have not ended successfully (running, failed or panicked), and other tasks that panicked.
    vital: Arc<AtomicUsize>,
}

impl Lifecycle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that a shutdown waits for. The task watches [`Self::stopping`] and ends by itself. If it panics, the
    /// service stops: a service must not continue without one of its parts.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let stop = StopOnPanic(self.stopping.clone(), self.vital.clone());
        self.tasks.spawn(async move {
            let _stop = stop;
            task.await
        })
    }

    /// Spawns a task that is one of many, or that is restarted. A shutdown waits for it, but its panic does not stop the service.
    pub fn spawn_apart<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Spawns a task that the service needs. If it fails, the failure is logged, the service stops, and [`Self::finished`] fails.
    /// If it ends successfully, the service stops, too.
    pub fn spawn_vital<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (stopping, vital) = (self.stopping.clone(), self.vital.clone());
        vital.fetch_add(1, Ordering::Relaxed);
        self.tasks.spawn(async move {
            // Stop also when the task panics: a service must not continue without one of its parts.
            let _stop = stopping.drop_guard();
            match task.await {
                Ok(()) => {
                    vital.fetch_sub(1, Ordering::Relaxed);
                }
                Err(failure) => error!(task = name, "stopping, because a task failed: {failure:#}"),
            }
        });
    }

    /// Resolves when the service is told to stop. For [`Self::stop_on_signals`], it may go on for some time.
    pub async fn leaving(&self) {
        tokio::select! {
            () = self.leaving.cancelled() => {}
            () = self.stopping() => {}
        }
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled() || self.is_stopping()
    }

    /// Marks a part as down from [`Self::leaving`] on, so that load balancers send no more requests.
    pub fn show_end(&self, health: &Health, part: &'static str) {
        let (life, health) = (self.clone(), health.clone());
        self.tasks.spawn(async move {
            life.leaving().await;
            health.ends(part);
        });
    }

    /// Resolves when the service must stop.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.stopping.cancelled()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    pub fn token(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Stops all tasks.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Stops `delay` after SIGTERM or SIGINT, or at once with a second signal. Continues on SIGXFSZ: a write past `ulimit -f` then fails
    /// like a write to a full disk.
    pub fn stop_on_signals(&self, delay: Duration) -> Result<()> {
        // A process that has listened for a signal once is no longer killed by it.
        let outlived = SignalKind::from_raw(Signal::SIGXFSZ as i32);
        drop(signal(outlived).context("listening for SIGXFSZ")?);
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let life = self.clone();
        self.tasks.spawn(async move {
            let mut signal = async || {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            let name = tokio::select! {
                name = signal() => name,
                () = life.stopping() => return,
            };
            life.leaving.cancel();
            if !delay.is_zero() {
                info!(signal = name, "not ready any more, stopping in {delay:?}");
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    _ = signal() => {}
                    () = life.stopping() => return,
                }
            }
            info!(signal = name, "stopping");
            life.stop();
        });
        Ok(())
    }

    /// Runs a service that is ready when `start` returns: starts it, waits until it is stopped, and drains it.
    pub async fn run(&self, start: impl Future<Output = Result<()>>, drain_within: Duration) -> Result<()> {
        let started = tokio::select! {
            started = start => started,
            () = self.stopping() => Ok(()),
        };
        if started.is_ok() {
            self.stopping().await;
        }
        self.stop();
        let finished = self.finished(drain_within).await;
        started.and(finished)?;
        info!("stopped");
        Ok(())
    }

    /// Waits for all tasks, after [`Self::stop`]. Fails if the deadline passes first, or if a vital task failed.
    pub async fn finished(&self, deadline: Duration) -> Result<()> {
        self.tasks.close();
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_err() {
            bail!("{} tasks did not end within {deadline:?}", self.tasks.len());
        }
        match self.vital.load(Ordering::Relaxed) {
            0 => {}
            failed => bail!("stopped, because {failed} vital tasks failed (see the log)"),
        }
        Ok(())
    }
}

struct StopOnPanic(CancellationToken, Arc<AtomicUsize>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failure_of_a_vital_task_stops_the_service_and_is_reported_at_the_end() {
        let life = Lifecycle::new();
        let stopping = life.token();
        life.spawn_vital("well", async move {
            stopping.cancelled().await;
            Ok(())
        });
        life.spawn_vital("failing", async { bail!("out of paper") });
        life.spawn_vital("panicking", async { panic!("out of ink") });
        life.stopping().await;
        let error = life.finished(Duration::from_secs(5)).await.unwrap_err().to_string();
        assert!(error.contains("2 vital tasks"), "{error}");
    }

    #[tokio::test]
    async fn panic_of_a_task_stops_the_service_unless_it_is_one_of_many() {
        let life = Lifecycle::new();
        life.spawn(async {}).await.unwrap();
        life.spawn_apart(async { panic!("out of thread") }).await.unwrap_err();
        assert!(!life.is_stopping());
        life.spawn(async {
            tokio::task::yield_now().await;
            panic!("out of time")
        });
        life.stopping().await;
        let error = life.finished(Duration::from_secs(5)).await.unwrap_err().to_string();
        assert!(error.contains("1 vital tasks"), "{error}");
    }
}

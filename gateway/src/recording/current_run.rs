//! The current run. Requests whose run ended before they were recorded wait here for the next run.

use std::time::Duration;

use schema::RunId;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Cheap to clone; all clones see the same run.
#[derive(Clone, Debug)]
pub struct CurrentRun {
    run: watch::Receiver<RunId>,
    /// How long a request may wait to be recorded, from its first publication to its lane.
    pub patience: Duration,
}

impl CurrentRun {
    /// Starts with `run`. The sender replaces it. If the sender is dropped, there will be no other run.
    pub fn new(run: RunId, patience: Duration) -> (watch::Sender<RunId>, Self) {
        let (changes, run) = watch::channel(run);
        (changes, Self { run, patience })
    }

    /// Waits for the run that replaces `ended`. `false`: there is none by `deadline`, or there will never be one.
    pub async fn is_after(&self, ended: RunId, deadline: Instant) -> bool {
        let mut run = self.run.clone();
        matches!(timeout_at(deadline, run.wait_for(|run| *run != ended)).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_wait_for_the_next_run_ends_at_the_deadline_or_when_no_run_can_follow() {
        let (first, second) = (RunId::new(), RunId::new());
        let (changes, current) = CurrentRun::new(first, Duration::from_secs(10));
        let soon = || Instant::now() + Duration::from_millis(10);
        assert!(!current.is_after(first, soon()).await, "it is the current run");
        changes.send_replace(second);
        assert!(current.is_after(first, soon()).await);
        drop(changes);
        let long = Instant::now() + Duration::from_secs(3_600);
        assert!(!current.is_after(second, long).await);
    }
}

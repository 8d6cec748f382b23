//! Asks all gateways to give back the units that they hold of one pool, and waits for those that hold some.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::Client;
use lane::link::Link;
use prometheus_client::metrics::counter::Counter;
use schema::{
    RunId, names,
    recall::{Recall, RecallAnswer, RecallOutcome},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout_at},
};
use tracing::{debug, warn};
use uuid::Uuid;

/// Maximum number of concurrent recalls of this gateway. Further recalls get no answers. (Each counter has at most one.)
const RECALLS_MAX: usize = 64;
/// After a gateway did not answer, recalls do not wait for it for this long. They still ask it, and its next answer ends this.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// The recalls that this gateway makes.
pub(crate) struct Recalls {
    pub(super) client: Client,
    pub(super) link: Link,
    /// Part of the subject on which answers arrive.
    pub(super) asker: Uuid,
    /// How long a request waits for answers in total.
    pub(super) patience: Duration,
    timed_out: Counter,
    permits: Semaphore,
    next: AtomicU64,
    /// The receivers of answers to recalls in progress.
    open: Mutex<HashMap<u64, mpsc::UnboundedSender<RecallAnswer>>>,
    silent: Mutex<HashMap<RunId, Instant>>,
}

/// A recall in progress. Dropping it ends the recall, and later answers are ignored.
struct Open<'a> {
    recalls: &'a Recalls,
    number: u64,
}

impl Recalls {
    /// `timed_out` counts recalls that timed out.
    pub(crate) fn new(client: Client, link: Link, patience: Duration, timed_out: Counter) -> Arc<Self> {
        Arc::new(Self {
            client,
            link,
            asker: Uuid::new_v4(),
            patience,
            timed_out,
            permits: Semaphore::new(RECALLS_MAX),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            silent: Mutex::default(),
        })
    }

    /// How long a request waits for answers in total.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether recalls and their answers can be sent.
    pub(crate) fn is_connected(&self) -> bool {
        self.link.is_up()
    }

    /// Whether a recall is our own. The gateway receives its own recalls, too.
    pub(super) fn is_ours(&self, reply: &str) -> bool {
        let answers = names::recall_answers(self.asker);
        reply.starts_with(answers.trim_end_matches('*'))
    }

    /// Collects answers until the deadline, or until all holders have answered except those known to be silent.
    pub(crate) async fn ask(&self, recall: &Recall, deadline: Instant) -> BTreeMap<RunId, RecallOutcome> {
        let mut outcomes = BTreeMap::new();
        let Ok(_permit) = self.permits.try_acquire() else {
            return outcomes;
        };
        if !self.is_connected() {
            return outcomes;
        }
        let mut awaited = self.awaited(&recall.holders);
        let (sender, mut answers) = mpsc::unbounded_channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(number, sender);
        let _open = Open { recalls: self, number };
        let asking = async {
            let payload = serde_json::to_vec(recall).expect("a struct of strings and numbers is always JSON");
            let reply = names::recall_answer(self.asker, number);
            if let Err(error) = self
                .client
                .publish_with_reply(names::RECALLS, reply, payload.into())
                .await
            {
                debug!("cannot send a recall: {error}");
                return;
            }
            while !awaited.is_empty() {
                let Some(answer) = answers.recv().await else {
                    return;
                };
                awaited.remove(&answer.run_id);
                outcomes.insert(answer.run_id, answer.outcome);
            }
        };
        if timeout_at(deadline, asking).await.is_err() {
            self.timed_out.inc();
            self.note_silent(awaited);
        }
        outcomes
    }

    /// Delivers an answer to its recall.
    pub(super) fn answered(&self, number: u64, answer: RecallAnswer) {
        // Even a late answer shows that the gateway is no longer silent.
        lock(&self.silent).remove(&answer.run_id);
        if let Some(recall) = lock(&self.open).get(&number) {
            // The receiver may be gone already.
            recall.send(answer).ok();
        }
    }

    fn awaited(&self, holders: &[RunId]) -> HashSet<RunId> {
        let now = Instant::now();
        let mut silent = lock(&self.silent);
        silent.retain(|_, since| now.duration_since(*since) < SILENT_FOR);
        let heard = |run: &&RunId| !silent.contains_key(run);
        holders.iter().filter(heard).copied().collect()
    }

    fn note_silent(&self, runs: HashSet<RunId>) {
        let now = Instant::now();
        let mut silent = lock(&self.silent);
        for run in runs {
            warn!(run.id = %run, "a gateway that holds units did not answer a recall: requests do not wait for it for some time");
            silent.insert(run, now);
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        lock(&self.recalls.open).remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Listens to other gateways: their recalls, their answers, and units that came back to them. The listener never waits for
//! PostgreSQL: it answers a recall when its transaction has ended, and reads other messages meanwhile.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use async_nats::{Client, Message, Subject};
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{FuturesUnordered, select_all},
};
use schema::{
    AccountId, PoolType, RunId,
    announcement::Announcement,
    names,
    recall::{CameBack, Recall, RecallAnswer, RecallOutcome},
};
use service::{Backoff, Lifecycle};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::Recalls;
use crate::quota::{
    counter::RecallFound,
    counters::{AccountCounters, Counters},
    leases::requests::LeaseRequests,
    quotas::Quotas,
};

/// How soon a new connection is noticed.
const WATCH: Duration = Duration::from_millis(250);
/// How many answers may wait for their transactions. Further recalls are answered "cannot" at once.
const ANSWERS_MAX: usize = 1_024;
/// The gateway that recalls has given up long before.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

type Pending = FuturesUnordered<BoxFuture<'static, (Subject, RecallAnswer)>>;

/// Listens until the service stops. Afterwards, other gateways cannot recall units from this one.
pub fn follow(client: Client, quotas: &Quotas, life: &Lifecycle) {
    let listener = Listener {
        client,
        counters: Arc::clone(quotas.counters()),
        requests: Arc::clone(quotas.requests()),
        recalls: Arc::clone(quotas.recalls()),
    };
    let stopping = life.token();
    life.spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let listening = async {
            loop {
                if let Err(error) = listener.listen().await {
                    let delay = backoff.next_delay();
                    warn!("cannot listen to other gateways ({error:#}): retrying in {delay:.1?}");
                    tokio::time::sleep(delay).await;
                }
            }
        };
        stopping.run_until_cancelled(listening).await;
    });
}

struct Listener {
    client: Client,
    counters: Arc<Counters>,
    requests: Arc<LeaseRequests>,
    recalls: Arc<Recalls>,
}

impl Listener {
    /// Ends only with an error.
    async fn listen(&self) -> anyhow::Result<()> {
        let answers = names::recall_answers(self.recalls.asker);
        let subscribe = async |subject: String| {
            let subscriber = self.client.subscribe(subject).await.context("subscribing")?;
            // A subscription that ends yields `None`, which ends the others, too.
            anyhow::Ok(subscriber.map(Some).chain(futures_util::stream::iter([None])))
        };
        let mut messages = select_all([
            subscribe(names::RECALLS.to_owned()).await?.boxed(),
            subscribe(answers).await?.boxed(),
            subscribe(names::CAME_BACK.to_owned()).await?.boxed(),
            subscribe(names::UNITS_RETURNED.to_owned()).await?.boxed(),
        ]);
        let mut pending = Pending::new();
        let statistics = self.client.statistics();
        let mut connects_seen = 0;
        let mut ticks = interval(WATCH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => match message.flatten() {
                    Some(message) => self.hear(message, &mut pending).await?,
                    None => bail!("a subscription ended"),
                },
                Some((reply, answer)) = pending.next() => self.answer(reply, &answer).await?,
                _ = ticks.tick() => {
                    let connects = statistics.connects.load(Ordering::Relaxed);
                    if connects != connects_seen {
                        connects_seen = connects;
                        // Announcements were missed while there was no connection.
                        self.counters.all_known().iter().for_each(|account| account.void_refusals());
                    }
                }
            }
        }
    }

    async fn hear(&self, message: Message, pending: &mut Pending) -> anyhow::Result<()> {
        match message.subject.as_str() {
            names::RECALLS => match (serde_json::from_slice(&message.payload), message.reply) {
                (Ok(recall), Some(reply)) => self.recalled(&recall, reply, pending).await?,
                (Ok(_), None) => {}
                (Err(error), _) => warn!("unreadable recall: {error}"),
            },
            names::CAME_BACK => match serde_json::from_slice(&message.payload) {
                Ok(came_back) => self.came_back(&came_back),
                Err(error) => warn!("unreadable announcement of returned units: {error}"),
            },
            names::UNITS_RETURNED => match serde_json::from_slice(&message.payload) {
                Ok(Announcement::UnitsReturned { account_id }) => {
                    if let Some(account) = self.counters.known(account_id) {
                        account.void_refusals();
                    }
                }
                Ok(_) => {}
                Err(error) => warn!("unreadable announcement: {error}"),
            },
            subject => {
                let number = subject.rsplit('.').next().and_then(|number| number.parse().ok());
                match (number, serde_json::from_slice(&message.payload)) {
                    (Some(number), Ok(answer)) => self.recalls.answered(number, answer),
                    _ => warn!(subject, "unreadable answer to a recall"),
                }
            }
        }
        Ok(())
    }

    fn came_back(&self, came_back: &CameBack) {
        if came_back.sender == self.recalls.asker {
            return;
        }
        if let Some((account, pool)) = self.known(came_back.account_id, &came_back.usage_type) {
            account.counter(pool).refusals().came_back(came_back.units);
        }
    }

    /// The counter's account, if it is in memory.
    fn known(&self, account: AccountId, pool: &str) -> Option<(Arc<AccountCounters>, PoolType)> {
        let account = self.counters.known(account)?;
        let pool = PoolType::parse(pool, |name| account.account.usage_type(name))?;
        Some((account, pool))
    }

    /// Closes the counter first, then gives its units back, and answers when PostgreSQL has them.
    async fn recalled(&self, recall: &Recall, reply: Subject, pending: &mut Pending) -> anyhow::Result<()> {
        if self.recalls.is_ours(&reply) {
            return Ok(());
        }
        let run = self.requests.run();
        let addressed = run.filter(|run| recall.holders.contains(run));
        let Some((account, pool)) = self.known(recall.account_id, &recall.usage_type) else {
            // An account that holds or owes a lease is in memory.
            return match addressed {
                Some(run) => self.answer_at_once(reply, run, RecallOutcome::Nothing).await,
                None => Ok(()),
            };
        };
        let counter = account.counter(pool);
        // As long as the gateway that recalls may repeat its recall.
        counter.note_recall(Instant::now(), self.recalls.patience);
        let Some(run) = addressed else {
            return Ok(());
        };
        if self.requests.is_away() || pending.len() >= ANSWERS_MAX {
            // While PostgreSQL is unavailable, this gateway keeps the units and spends them itself.
            return self.answer_at_once(reply, run, RecallOutcome::Cannot).await;
        }
        match counter.recall(recall.period_start) {
            RecallFound::Nothing => self.answer_at_once(reply, run, RecallOutcome::Nothing).await,
            RecallFound::TooMany => self.answer_at_once(reply, run, RecallOutcome::Cannot).await,
            RecallFound::Units(result) => {
                pending.push(Box::pin(async move {
                    let outcome = match timeout(ANSWER_WITHIN, result).await {
                        Ok(Ok(true)) => RecallOutcome::Returned,
                        _ => RecallOutcome::Cannot,
                    };
                    (reply, RecallAnswer { run_id: run, outcome })
                }));
                Ok(())
            }
        }
    }

    async fn answer_at_once(&self, reply: Subject, run: RunId, outcome: RecallOutcome) -> anyhow::Result<()> {
        self.answer(reply, &RecallAnswer { run_id: run, outcome }).await
    }

    async fn answer(&self, reply: Subject, answer: &RecallAnswer) -> anyhow::Result<()> {
        let metrics = &self.requests.metrics;
        match answer.outcome {
            RecallOutcome::Returned => metrics.recalls_returned.inc(),
            RecallOutcome::Nothing => metrics.recalls_nothing.inc(),
            RecallOutcome::Cannot => metrics.recalls_cannot.inc(),
        };
        debug!(outcome = ?answer.outcome, "answering a recall");
        let payload = serde_json::to_vec(answer)?;
        self.client.publish(reply, payload.into()).await.context("answering")
    }
}

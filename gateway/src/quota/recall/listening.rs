//! Hears what other gateways say of units. Nothing here waits for Postgres: a recall is answered when its transaction has
//! ended, and others are heard meanwhile.

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
    RunId,
    announcement::Announcement,
    names,
    recall::{CameBack, Recall, RecallAnswer, RecallOutcome},
};
use service::{Backoff, Lifecycle};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::Recalls;
use crate::{
    accounts::Accounts,
    quota::{counter::Found, leases::Desk, quotas::Quotas},
};

/// How soon a new connection is noticed.
const WATCH: Duration = Duration::from_millis(250);
/// Answers that may wait for their transactions; whoever asks beyond them is told at once that it cannot be.
const ANSWERS_MAX: usize = 1_024;
/// An asker has given up long before.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

type Pending = FuturesUnordered<BoxFuture<'static, (Subject, RecallAnswer)>>;

/// Listens until the service stops: with it ends that our units can be recalled.
pub fn follow(client: Client, accounts: Accounts, quotas: &Quotas, life: &Lifecycle) {
    let listener = Listener {
        client,
        accounts,
        desk: Arc::clone(quotas.desk()),
        recalls: Arc::clone(quotas.recalls()),
    };
    let stopping = life.token();
    life.spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let listening = async {
            loop {
                if let Err(error) = listener.listen().await {
                    let delay = backoff.next_delay();
                    warn!("not hearing other gateways ({error:#}): trying again in {delay:.1?}");
                    tokio::time::sleep(delay).await;
                }
            }
        };
        stopping.run_until_cancelled(listening).await;
    });
}

struct Listener {
    client: Client,
    accounts: Accounts,
    desk: Arc<Desk>,
    recalls: Arc<Recalls>,
}

impl Listener {
    /// Ends only with an error.
    async fn listen(&self) -> anyhow::Result<()> {
        let answers = names::recall_answers(self.recalls.asker);
        let subscribe = async |subject: String| {
            let subscriber = self.client.subscribe(subject).await.context("subscribing")?;
            // A subscription that ends is told, instead of the others going on without it.
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
                        // What was announced meanwhile was missed.
                        self.accounts.void_all_refusals();
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
                (Err(error), _) => warn!("a recall that cannot be read: {error}"),
            },
            names::CAME_BACK => match serde_json::from_slice(&message.payload) {
                Ok(came_back) => self.came_back(&came_back),
                Err(error) => warn!("what came back elsewhere cannot be read: {error}"),
            },
            names::UNITS_RETURNED => match serde_json::from_slice(&message.payload) {
                Ok(Announcement::UnitsReturned { account_id }) => self.accounts.void_refusals(account_id),
                Ok(_) => {}
                Err(error) => warn!("an announcement that cannot be read: {error}"),
            },
            subject => {
                let number = subject.rsplit('.').next().and_then(|number| number.parse().ok());
                match (number, serde_json::from_slice(&message.payload)) {
                    (Some(number), Ok(answer)) => self.recalls.answered(number, answer),
                    _ => warn!(subject, "an answer to a recall that cannot be read"),
                }
            }
        }
        Ok(())
    }

    fn came_back(&self, came_back: &CameBack) {
        let account = self.accounts.known(came_back.account_id);
        let usage_type = self.accounts.usage_type(&came_back.usage_type);
        if let (Some(account), Some(usage_type)) = (account, usage_type)
            && came_back.sender != self.recalls.asker
        {
            account.counter(usage_type).refusals.came_back(came_back.units);
        }
    }

    /// Closes the counter first, then gives back; answers when Postgres has it.
    async fn recalled(&self, recall: &Recall, reply: Subject, pending: &mut Pending) -> anyhow::Result<()> {
        if self.recalls.is_ours(&reply) {
            return Ok(());
        }
        let run = self.desk.run();
        let addressed = run.filter(|run| recall.holders.contains(run));
        let account = self.accounts.known(recall.account_id);
        let usage_type = self.accounts.usage_type(&recall.usage_type);
        let (Some(account), Some(usage_type)) = (account, usage_type) else {
            // Whoever holds or owes a lease has the account in memory.
            return match addressed {
                Some(run) => self.answer_at_once(reply, run, RecallOutcome::Nothing).await,
                None => Ok(()),
            };
        };
        let counter = account.counter(usage_type);
        // As long as the asker may go on asking.
        counter.note_recall(Instant::now(), self.recalls.patience);
        let Some(run) = addressed else {
            return Ok(());
        };
        if self.desk.is_away() || pending.len() >= ANSWERS_MAX {
            // What is held is spent here while Postgres is away.
            return self.answer_at_once(reply, run, RecallOutcome::Cannot).await;
        }
        match counter.recall(recall.period_start) {
            Found::Nothing => self.answer_at_once(reply, run, RecallOutcome::Nothing).await,
            Found::TooMany => self.answer_at_once(reply, run, RecallOutcome::Cannot).await,
            Found::Units(told) => {
                self.desk.attend(&account, usage_type);
                pending.push(Box::pin(async move {
                    let outcome = match timeout(ANSWER_WITHIN, told).await {
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
        let metrics = &self.desk.metrics;
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

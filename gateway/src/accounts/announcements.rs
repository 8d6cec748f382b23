//! Follows the announcements of other services, so that a change takes effect within a second. The refresh finds changes whose
//! announcement is lost. The listener never waits for PostgreSQL: a change that was heard holds at once ([`Accounts::changed`]).

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, bail};
use async_nats::{Client, Message, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use schema::{AccountId, KeyId, announcement::Announcement, names::ANNOUNCEMENTS, spend_cap::CapKnown};
use service::{Backoff, Lifecycle};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::Accounts;

/// Most announcements that are handled together.
const BATCH: usize = 1_000;
/// How soon a new connection is noticed.
const WATCH: Duration = Duration::from_millis(250);
/// How many answers may wait for accounts to be read. Further questions get no answer, and are asked again.
const ANSWERS_MAX: usize = 1_024;

/// Answers that wait until their account is read. `None`: there is none.
type Answers = FuturesUnordered<BoxFuture<'static, Option<(Subject, CapKnown)>>>;

/// Listens until the service stops. After every connection and reconnection everything is read again, since announcements may
/// have been missed.
pub fn follow(client: Client, accounts: Accounts, life: &Lifecycle) {
    let stopping = life.token();
    life.spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let listening = async {
            loop {
                if let Err(error) = listen(&client, &accounts).await {
                    let delay = backoff.next_delay();
                    warn!("cannot listen to announcements ({error:#}): retrying in {delay:.1?}");
                    tokio::time::sleep(delay).await;
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = stopping.cancelled() => {}
        }
    });
}

/// Ends only with an error.
async fn listen(client: &Client, accounts: &Accounts) -> anyhow::Result<()> {
    let mut messages = client.subscribe(ANNOUNCEMENTS).await.context("subscribing")?;
    let statistics = client.statistics();
    let mut answers = Answers::new();
    let mut connects_seen = 0;
    let mut ticks = interval(WATCH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => {
                    let changes = take(message, &mut messages);
                    accounts.changed(&changes.keys, &changes.accounts).await;
                    let room = ANSWERS_MAX.saturating_sub(answers.len());
                    for question in changes.caps.into_iter().take(room) {
                        answers.push(answer(accounts.clone(), question).boxed());
                    }
                }
                None => bail!("the subscription ended"),
            },
            Some(answer) = answers.next() => if let Some((reply, known)) = answer {
                let payload = serde_json::to_vec(&known)?;
                client.publish(reply, payload.into()).await.context("answering")?;
            },
            _ = ticks.tick() => {
                let connects = statistics.connects.load(Ordering::Relaxed);
                if connects != connects_seen {
                    connects_seen = connects;
                    accounts.refresh_all_soon();
                }
            }
        }
    }
}

/// Announced changes, each once.
#[derive(Default)]
struct Changes {
    keys: Vec<KeyId>,
    accounts: Vec<AccountId>,
    caps: Vec<CapQuestion>,
}

/// Whether this gateway knows a spend cap.
struct CapQuestion {
    account: AccountId,
    revision: i64,
    reply: Subject,
}

/// Whether this gateway knows the cap, once the account is read. `None`: it has no run, so it admits nothing.
async fn answer(accounts: Accounts, question: CapQuestion) -> Option<(Subject, CapKnown)> {
    let is_known = match accounts.inner.counters.known(question.account) {
        Some(known) => accounts.inner.is_read(&known.account).await && known.account.knows_cap(question.revision),
        // It is read with its cap, unless it is being read now.
        None => !accounts.inner.is_loading(),
    };
    let run_id = accounts.inner.requests.run()?;
    Some((question.reply, CapKnown { run_id, is_known }))
}

/// The first announcement and those that wait behind it.
fn take(first: Message, messages: &mut Subscriber) -> Changes {
    let (mut keys, mut accounts, mut caps) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let waiting = std::iter::from_fn(|| messages.next().now_or_never().flatten());
    for message in std::iter::once(first).chain(waiting).take(BATCH) {
        match serde_json::from_slice(&message.payload) {
            Ok(Announcement::AccountChanged { account_id }) => {
                accounts.insert(account_id);
            }
            Ok(Announcement::KeyChanged { key_id, .. }) => {
                keys.insert(key_id);
            }
            Ok(Announcement::SpendCapSet { account_id, revision }) => {
                accounts.insert(account_id);
                caps.extend(message.reply.map(|reply| CapQuestion {
                    account: account_id,
                    revision,
                    reply,
                }));
            }
            // `recall::follow` handles it, without waiting for PostgreSQL.
            Ok(Announcement::UnitsReturned { .. }) => {}
            Err(error) => warn!(subject = %message.subject, "unreadable announcement: {error}"),
        }
    }
    Changes {
        keys: keys.into_iter().collect(),
        accounts: accounts.into_iter().collect(),
        caps,
    }
}

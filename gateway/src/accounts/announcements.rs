//! Follows the announcements of other services, so that a change takes effect within a second. The refresh finds changes whose
//! announcement is lost.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, bail};
use async_nats::{Client, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use schema::{AccountId, KeyId, announcement::Announcement, names::ANNOUNCEMENTS};
use service::{Backoff, Lifecycle};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::Accounts;

/// Most announcements that are handled together.
const BATCH: usize = 1_000;
/// How soon a new connection is noticed.
const WATCH: Duration = Duration::from_millis(250);

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
    let mut connects_seen = 0;
    let mut ticks = interval(WATCH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => {
                    let (keys, accounts_changed) = take(message, &mut messages);
                    accounts.refresh(&keys, &accounts_changed).await;
                }
                None => bail!("the subscription ended"),
            },
            _ = ticks.tick() => {
                let connects = statistics.connects.load(Ordering::Relaxed);
                if connects != connects_seen {
                    connects_seen = connects;
                    accounts.refresh_all().await;
                }
            }
        }
    }
}

/// The first announcement and those that wait behind it.
fn take(first: Message, messages: &mut Subscriber) -> (Vec<KeyId>, Vec<AccountId>) {
    let (mut keys, mut accounts) = (BTreeSet::new(), BTreeSet::new());
    let waiting = std::iter::from_fn(|| messages.next().now_or_never().flatten());
    for message in std::iter::once(first).chain(waiting).take(BATCH) {
        match serde_json::from_slice(&message.payload) {
            Ok(Announcement::AccountChanged { account_id }) => {
                accounts.insert(account_id);
            }
            Ok(Announcement::KeyChanged { key_id, account_id }) => {
                keys.insert(key_id);
                accounts.insert(account_id);
            }
            // `recall::follow` handles it, without waiting for PostgreSQL.
            Ok(Announcement::UnitsReturned { .. }) => {}
            Err(error) => warn!(subject = %message.subject, "unreadable announcement: {error}"),
        }
    }
    (keys.into_iter().collect(), accounts.into_iter().collect())
}

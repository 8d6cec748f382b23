//! Publishes waiting corrections in a run of its own, which exists only while there are corrections to publish. At other times
//! the billing worker has no lanes and no run, so it needs no supervision as a writer.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, anyhow};
use async_nats::Client;
use futures_util::future::join_all;
use lane::{
    gathered::BatchLimits,
    link::Link,
    metrics::LaneMetrics,
    publisher::{NoUnits, Outgoing, PublishOutcome, Publisher, QueueLimits, Slot},
    run::{Run, RunLimits, Runs},
    task::LaneLimits,
};
use quota_store::writers;
use schema::{AccountId, EventId, RunId};
use service::{Health, Lifecycle};
use sqlx::PgPool;
use tokio::time::timeout;
use tracing::warn;

use super::repository::Handed;

/// Limit for registering a run and opening its lanes. After that, a later attempt follows.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);
/// Limit for closing the lanes, because a full stream prevents it.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A run with open lanes.
pub struct Session {
    run: Run,
    publisher: Publisher<NoUnits>,
    db: PgPool,
}

/// The connection to NATS, and whether it works.
#[derive(Clone)]
pub struct Nats {
    pub client: Client,
    pub link: Link,
}

/// The outcome of the events of one record.
#[derive(Debug)]
pub struct PublishedEvents {
    pub events: Vec<EventId>,
    pub outcome: PublishOutcome,
}

impl Session {
    pub async fn begin(db: &PgPool, nats: &Nats, metrics: &LaneMetrics) -> Result<Self> {
        let runs = Runs {
            name: writers::BILLING_WORKER.to_owned(),
            pool: db.clone(),
            client: nats.client.clone(),
            link: nats.link.clone(),
            // Not the health of the service: webhooks and the API do not need lanes.
            health: Health::new(),
            // Lanes end by themselves. A lane of an abandoned run waits for its fence and must not delay a shutdown.
            life: Lifecycle::new(),
            metrics: metrics.clone(),
            limits: limits(),
            spool: None,
        };
        let begun = match timeout(BEGIN_WITHIN, runs.begin()).await {
            Ok(begun) => begun,
            Err(_) => Err(anyhow!("no lanes within {BEGIN_WITHIN:?}")),
        };
        let (run, lanes) = begun?;
        let publisher = Publisher::new(nats.link.clone());
        publisher.install(lanes);
        Ok(Self {
            run,
            publisher,
            db: db.clone(),
        })
    }

    pub fn run(&self) -> RunId {
        self.run.id
    }

    /// Publishes events that were handed to this run. Returns the outcome of each, within seconds.
    pub async fn publish(&self, handed: Vec<Handed>) -> Vec<PublishedEvents> {
        let entries = entries(handed).into_iter().map(async |entry| {
            let outcome = match self.publisher.reserve(entry.account) {
                Ok(slot) => slot.publish(entry.outgoing).await,
                Err(_) => PublishOutcome::NotStored,
            };
            PublishedEvents {
                events: entry.events,
                outcome,
            }
        });
        join_all(entries).await
    }

    /// Closes the lanes and the run. Fails if others must resolve its remaining rows.
    pub async fn end(mut self) -> Result<()> {
        self.publisher.remove();
        let closed = match timeout(CLOSE_WITHIN, self.run.lanes_closed()).await {
            Ok(closed) => closed,
            Err(_) => Err(anyhow!("the lanes were not closed within {CLOSE_WITHIN:?}")),
        };
        if let Err(failure) = closed {
            self.abandon().await;
            return Err(failure);
        }
        self.run.close().await
    }

    /// Ends the run after an unknown outcome. It writes nothing more and marks itself as ended, so that its rows are resolved
    /// at once.
    pub async fn abandon(self) {
        let run = self.run.id;
        self.run.give_up();
        self.publisher.remove();
        let ended = writers::fence_live(&self.db, run);
        if let Err(error) = ended.await {
            warn!(run.id = %run, "could not mark the run as ended, it will be ended as a silent run: {error}");
        }
    }
}

/// Events of one account in one record.
struct Entry {
    account: AccountId,
    events: Vec<EventId>,
    outgoing: Vec<Outgoing<NoUnits>>,
    bytes: usize,
}

fn entries(handed: Vec<Handed>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut by_account: BTreeMap<AccountId, Vec<Handed>> = BTreeMap::new();
    for row in handed {
        by_account.entry(row.account).or_default().push(row);
    }
    for (account, rows) in by_account {
        let mut open = false;
        for row in rows {
            let event = row.event.encode();
            let bytes = event.size();
            let fits = |entry: &&mut Entry| open && entry.bytes + bytes <= Slot::<NoUnits>::BYTES_MAX;
            let outgoing = Outgoing { event, units: None };
            match entries.last_mut().filter(fits) {
                Some(entry) => {
                    entry.events.push(row.event.event_id);
                    entry.outgoing.push(outgoing);
                    entry.bytes += bytes;
                }
                None => entries.push(Entry {
                    account,
                    events: vec![row.event.event_id],
                    outgoing: vec![outgoing],
                    bytes,
                }),
            }
            open = true;
        }
    }
    entries
}

/// No client waits here, so it waits longer for outcomes than a gateway does, but not longer than a shutdown.
fn limits() -> RunLimits {
    RunLimits {
        heartbeat_interval: Duration::from_secs(5),
        queue: QueueLimits {
            entries: 1_024,
            bytes: 64 << 20,
        },
        lane: LaneLimits {
            batch: BatchLimits {
                events: 2_000,
                bytes: 512 << 10,
            },
            attempt_timeout: Duration::from_secs(2),
            stuck_after: Duration::from_secs(5),
            outcome_deadline: Duration::from_secs(10),
        },
    }
}

#[cfg(test)]
mod tests {
    use schema::{KeyId, LeaseId, SubscriptionId, UsageEvent};

    use super::*;

    fn handed(account: AccountId, agent: usize) -> Handed {
        let event = UsageEvent {
            event_id: EventId::new(),
            account_id: account,
            key_id: KeyId::new(),
            subscription_id: SubscriptionId::NIL,
            period_start: 0,
            usage_type: "api_call".into(),
            cost_units: -1,
            endpoint: "/".into(),
            method: "GET".into(),
            status: 200,
            request_id: "r".into(),
            ip_address: "::1".parse().unwrap(),
            user_agent: "x".repeat(agent),
            time_ms: 0,
            lease_id: LeaseId::NIL,
            idempotency_key: String::new(),
            corrects: EventId::new(),
        };
        Handed { account, event }
    }

    #[test]
    fn entries_are_of_one_account_and_fit_a_slot() {
        let (a, b) = (AccountId::new(), AccountId::new());
        let rows = [(a, 10), (b, 10), (a, 10), (b, 200_000), (b, 200_000)];
        let entries = entries(rows.map(|(account, agent)| handed(account, agent)).into());
        let shape: Vec<_> = entries
            .iter()
            .map(|entry| (entry.account, entry.events.len()))
            .collect();
        assert_eq!(shape, [(a, 2), (b, 2), (b, 1)]);
        assert!(entries.iter().all(|entry| entry.bytes <= Slot::<NoUnits>::BYTES_MAX));
    }
}

//! Workers that die, count as dead, or have no NATS: each correction is still made once.

use std::time::Duration;

use billing_worker::corrections::{
    repository,
    request::{self, NewCorrection, NewTarget},
    resolve,
    session::{Nats, Session},
};
use harness::{StackOptions, eventually};
use lane::{link::Link, metrics::LaneMetrics, publisher::PublishOutcome};
use schema::{EventId, RunId};
use serde_json::json;
use service::{Health, Lifecycle};
use sqlx::PgPool;
use uuid::Uuid;

use super::books::{Books, nats_settings, void};

/// How far a worker comes before it dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dies {
    BeforeThePublish,
    AfterThePublish,
}

impl Books {
    /// A worker that takes the waiting rows and dies as if by `kill -9`: its connections are closed without a message. It is
    /// not a process, because a process cannot be killed at such an exact moment.
    fn worker_that_dies(&self, dies: Dies) -> RunId {
        let (database_url, settings) = (self.stack.endpoints.database_url.clone(), nats_settings(&self.stack));
        let worker = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let run = runtime.block_on(async {
                let db = PgPool::connect(&database_url).await.unwrap();
                let client = service::nats::connect(&settings, "dying", &Health::new())
                    .await
                    .unwrap();
                let link = Link::watch(&client, &Lifecycle::new());
                let nats = Nats { client, link };
                let session = Session::begin(&db, &nats, &LaneMetrics::default()).await.unwrap();
                let handed = repository::hand(&db, session.run()).await.unwrap();
                assert!(!handed.is_empty());
                if dies == Dies::AfterThePublish {
                    let published = session.publish(handed).await;
                    assert!(
                        published.iter().all(|event| event.outcome == PublishOutcome::Stored),
                        "{published:?}"
                    );
                }
                let run = session.run();
                // Dropping it would close its lanes.
                std::mem::forget(session);
                run
            });
            runtime.shutdown_timeout(Duration::ZERO);
            run
        };
        std::thread::spawn(worker).join().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_dies_before_or_after_the_publish_corrects_once() {
    for dies in [Dies::BeforeThePublish, Dies::AfterThePublish] {
        let mut books = Books::open(StackOptions::default()).await;
        let events = books.spend("api_call", &[10, 20, 30]).await;
        books.stack.billing.kill().await.unwrap();
        let request: NewCorrection =
            serde_json::from_value(books.request(json!([void(&events[0]), void(&events[1])]))).unwrap();
        let admin = books.admin();
        request::create(&admin, request.clone()).await.unwrap();
        let run = books.worker_that_dies(dies);

        // As long as the worker may be alive, its rows belong to it.
        let client = admin.announcer.client().cloned();
        let client = match client {
            Some(client) => client,
            None => service::nats::connect(&nats_settings(&books.stack), "test", &Health::new())
                .await
                .unwrap(),
        };
        let resolved = resolve::step(&admin.db, &admin.clickhouse, &client).await.unwrap();
        assert_eq!(resolved, resolve::Resolved::default());
        assert!(repository::hand(&admin.db, run).await.unwrap().is_empty());

        sqlx::query("update gateway_runs set heartbeat_at = now() - interval '2 minutes' where id = $1")
            .bind(run.0)
            .execute(&books.stack.pool)
            .await
            .unwrap();
        books.stack.billing.restart().await.unwrap();
        books.until_published().await;
        assert!(request::create(&admin, request).await.unwrap().repeated);
        let by: Vec<String> = books
            .stack
            .clickhouse
            .query("select distinct toString(run_id) from usage_events where cost_units < 0")
            .fetch_all()
            .await
            .unwrap();
        assert_eq!(by == [run.to_string()], dies == Dies::AfterThePublish, "{by:?}");
        books.close(30).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_counts_as_dead_publishes_nothing_more() {
    let mut books = Books::open(StackOptions::default()).await;
    let events = books.spend("api_call", &[10, 20]).await;
    books.stack.billing.kill().await.unwrap();
    let admin = books.admin();
    let request = |event: &EventId| NewCorrection {
        correction_id: Uuid::now_v7(),
        account_id: books.ada.account_id,
        reason: "an outage of ours".into(),
        by: "eve".into(),
        events: vec![NewTarget {
            event_id: *event,
            void: true,
            cost_units: None,
        }],
    };
    request::create(&admin, request(&events[0])).await.unwrap();
    let client = service::nats::connect(&nats_settings(&books.stack), "slow", &Health::new())
        .await
        .unwrap();
    let life = Lifecycle::new();
    let nats = Nats {
        link: Link::watch(&client, &life),
        client: client.clone(),
    };
    let slow = Session::begin(&admin.db, &nats, &LaneMetrics::default()).await.unwrap();
    let handed = repository::hand(&admin.db, slow.run()).await.unwrap();
    // The worker is not dead, only slow. Others do not wait for it.
    sqlx::query("update gateway_runs set state = 'fencing' where id = $1")
        .bind(slow.run().0)
        .execute(&admin.db)
        .await
        .unwrap();
    eventually("its corrections wait again", async || {
        let resolved = resolve::step(&admin.db, &admin.clickhouse, &client).await.unwrap();
        (resolved.not_stored == 1).then_some(())
    })
    .await;
    books.stack.billing.restart().await.unwrap();
    books.until_published().await;
    let published = slow.publish(handed).await;
    assert!(
        published.iter().all(|event| event.outcome.is_not_stored()),
        "{published:?}"
    );
    slow.abandon().await;
    request::create(&admin, request(&events[1])).await.unwrap();
    life.stop();
    books.close(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn corrections_wait_for_nats_and_the_worker_starts_without_it() {
    let mut books = Books::open(StackOptions::default()).await;
    let events = books.spend("api_call", &[5, 7]).await;
    books.stack.nats.kill().await.unwrap();
    books.stack.billing.restart().await.unwrap();
    assert_eq!(
        books.correct(&books.request(json!([void(&events[0])]))).await.status,
        201
    );
    books.stack.nats.restart().await.unwrap();
    books.until_published().await;
    let runs = "select count(*) from gateway_runs where gateway = 'billing-worker'";
    let runs: i64 = sqlx::query_scalar(runs).fetch_one(&books.stack.pool).await.unwrap();
    assert_eq!(runs, 1);
    // When the worker stops, it closes its run.
    assert!(
        books
            .stack
            .billing
            .stop(Duration::from_secs(30))
            .await
            .unwrap()
            .success()
    );
    let states = "select distinct state from gateway_runs where gateway = 'billing-worker'";
    let states: Vec<String> = sqlx::query_scalar(states).fetch_all(&books.stack.pool).await.unwrap();
    assert_eq!(states, ["closed"]);
    books.close(7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_looked_up_and_not_guessed() {
    let mut books = Books::open(StackOptions::default()).await;
    let events = books.spend("api_call", &[5, 7, 9]).await;
    books
        .correct(&books.request(json!([void(&events[0])])))
        .await
        .ok()
        .unwrap();
    books.until_published().await;
    // The worker's lanes are still open, and NATS does not respond to its publishes.
    books.stack.nats.pause().unwrap();
    let voided = books.request(json!([void(&events[1])]));
    books.correct(&voided).await.ok().unwrap();
    eventually("the worker gives its run up", async || {
        let given_up = "select count(*) from gateway_runs where gateway = 'billing-worker' and state = 'fencing'";
        let given_up: i64 = sqlx::query_scalar(given_up).fetch_one(&books.stack.pool).await.unwrap();
        (given_up == 1).then_some(())
    })
    .await;
    books.stack.nats.resume().unwrap();
    books.until_published().await;
    assert_eq!(books.correct(&voided).await.status, 200);
    books.close(9).await;
}

//! Before a subscription ends, everything that any gateway acknowledged is on its last invoice, or the subscription does not end.

mod rig;

use std::time::Duration;

use async_nats::Client as Nats;
use billing_worker::{
    administration::{Administration, By, announce::Announcer},
    stored::{self, WatermarkMetrics},
};
use harness::{Stack, StackOptions, eventually, wait::PATIENCE};
use lane::subject::LaneSubject;
use protocol::lane::{LastRecord, Seen};
use schema::{AccountId, Catalogue, RunId, names};
use service::nats::NatsSettings;
use uuid::Uuid;

use self::rig::{Rig, assert_not_stored};

fn env(name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    vec![(name, value.to_owned())]
}

/// The ingestor stores a range only two seconds after its first event, so what was just acknowledged is never in ClickHouse yet.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_now_bills_every_acknowledged_call() {
    let rig = Rig::start(StackOptions {
        ingestor_env: env("BATCH_AGE_MAX", "2"),
        ..StackOptions::default()
    })
    .await;
    rig.use_up().await;
    rig.cancel_now().await.ok().unwrap();
    rig.assert_last_invoice(4_000);
    let waits = "billing_watermark_wait_seconds_count";
    assert!(rig.stack.billing.metric::<u64>(waits).await.unwrap() > 0);
    let stored = [("api_call".to_owned(), 3_000), ("export".to_owned(), 30)];
    assert_eq!(rig.stored().await, stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_ingestor_stopped_cancel_now_is_503_and_changes_nothing() {
    let mut rig = Rig::start(StackOptions {
        billing_env: env("USAGE_STORED_WAIT", "1"),
        ..StackOptions::default()
    })
    .await;
    rig.stack.ingestors[0].stop(PATIENCE).await.unwrap();
    rig.use_up().await;
    let before = rig.state().await;
    assert_eq!(before["stripe"][0]["status"], "active");
    assert_not_stored(&rig.cancel_now().await);
    assert_eq!(rig.state().await, before);
    let given_up = "billing_usage_not_stored_total";
    assert_eq!(rig.stack.billing.metric::<u64>(given_up).await.unwrap(), 1);
    rig.stack.ingestors[0].restart().await.unwrap();
    rig.cancelled().await;
    rig.assert_last_invoice(4_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spooling_gateway_keeps_a_subscription_from_ending() {
    let mut rig = Rig::start(StackOptions {
        billing_env: env("USAGE_STORED_WAIT", "1"),
        ..StackOptions::default()
    })
    .await;
    rig.stack.nats.kill().await.unwrap();
    rig.use_up().await;
    // It dies with its spool: nobody else has the events.
    rig.stack.gateways[0].service.kill().await.unwrap();
    let spooling: i64 = sqlx::query_scalar("select count(*) from gateway_runs where state = 'spooling'")
        .fetch_one(&rig.stack.pool)
        .await
        .unwrap();
    assert_eq!(spooling, 1);
    rig.stack.nats.restart().await.unwrap();
    let before = rig.state().await;
    eventually("NATS is back, and the spool is what is missing", async || {
        assert_not_stored(&rig.cancel_now().await);
        let why = "still waiting for the spool of a gateway";
        rig.stack.billing.process().has_logged(why).then_some(())
    })
    .await;
    assert_eq!(rig.state().await, before);
    rig.stack.gateways[0].service.restart().await.unwrap();
    rig.cancelled().await;
    rig.assert_last_invoice(4_000);
}

/// The end of a run's lane in the account's shard.
async fn last_record(stack: &Stack, nats: &Nats, account: AccountId, run: RunId) -> LastRecord {
    let stream = lane::stream::look(nats).await.unwrap();
    let shard = names::shard_of(account, stream.shards);
    let lane = LaneSubject::new(nats, &stream.stream, shard, run);
    let last = lane.last_record(Duration::from_secs(5)).await;
    last.unwrap_or_else(|failure| panic!("{}: {failure:#}", stack.nats.url()))
}

/// Without a billing worker, so that nobody else ends the lanes of the dead gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_gateway_is_fenced_before_a_final_invoice() {
    let mut rig = Rig::start(StackOptions {
        ingestor_env: env("BATCH_AGE_MAX", "2"),
        ..StackOptions::default()
    })
    .await;
    rig.use_up().await;
    rig.stack.gateways[0].service.kill().await.unwrap();
    rig.stack.billing.stop(PATIENCE).await.unwrap();
    let dead: Uuid = sqlx::query_scalar(
        "update gateway_runs set state = 'fencing' where state = 'live' and gateway <> 'billing-worker' returning id",
    )
    .fetch_one(&rig.stack.pool)
    .await
    .unwrap();
    let nats = async_nats::connect(rig.stack.nats.url()).await.unwrap();
    let (account, run) = (rig.ada.account_id, RunId(dead));
    let is_fenced = |last| {
        let LastRecord::At { record, .. } = last else {
            panic!("{last:?}")
        };
        matches!(record, Seen::Fence { .. })
    };
    assert!(!is_fenced(last_record(&rig.stack, &nats, account, run).await));

    let admin = Administration {
        db: rig.stack.pool.clone(),
        catalogue: Catalogue::built_in().into(),
        announcer: Announcer::of_command(&NatsSettings {
            nats_url: rig.stack.nats.url().to_owned(),
            nats_user: None,
            nats_password: None,
        }),
        clickhouse: rig.stack.clickhouse.clone(),
        corrections_wait: Default::default(),
        by: By::Service,
        name: None,
    };
    let metrics = WatermarkMetrics::default();
    stored::wait(&admin, &metrics, account, PATIENCE).await.unwrap();
    assert!(is_fenced(last_record(&rig.stack, &nats, account, run).await));
    let stored = [("api_call".to_owned(), 3_000), ("export".to_owned(), 30)];
    assert_eq!(
        rig.stored().await,
        stored,
        "all that it acknowledged, without another wait"
    );

    rig.stack.billing.restart().await.unwrap();
    rig.cancelled().await;
    rig.assert_last_invoice(4_000);
}

//! Stopping and dying: what was answered is stored, what was held comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use harness::{Client, Stack, StackOptions, eventually};

use crate::SERVICES;

/// Clients that spend one unit after the other until told to stop, and count what was accepted.
async fn load(client: &Client, clients: usize, stop: Arc<AtomicBool>, accepted: Arc<AtomicU64>) {
    let one = async || {
        while !stop.load(Ordering::Relaxed) {
            // A gateway that went away refuses connections, or cuts one before it read the request.
            if let Ok(answer) = client.spend("api_call", 1).await
                && answer.status == 200
            {
                accepted.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    futures_util::future::join_all((0..clients).map(|_| one())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing_and_gives_everything_back() {
    let mut stack = Stack::start(
        SERVICES,
        StackOptions {
            gateways: 2,
            ingestors: 2,
            ..StackOptions::default()
        },
    )
    .await
    .unwrap();
    let ada = stack.admin.customer("ada", "enterprise").await.unwrap();
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = [Client::new(stack.gateway(0), &ada), Client::new(stack.gateway(1), &ada)];
    let stopping = async {
        // Well under way, then one of each kind is stopped, and then the rest.
        let reached = |count| {
            let accepted = accepted.clone();
            async move {
                eventually("load is under way", async || {
                    (accepted.load(Ordering::Relaxed) >= count).then_some(())
                })
                .await;
            }
        };
        reached(500).await;
        let ended = stack.gateways[0].service.stop(Duration::from_secs(40)).await.unwrap();
        assert!(ended.success(), "the gateway ended with {ended}");
        let ended = stack.ingestors[0].stop(Duration::from_secs(40)).await.unwrap();
        assert!(ended.success(), "the ingestor ended with {ended}");
        reached(accepted.load(Ordering::Relaxed) + 500).await;
        let ended = stack.gateways[1].service.stop(Duration::from_secs(40)).await.unwrap();
        assert!(ended.success(), "the gateway ended with {ended}");
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        stopping,
        load(&clients[0], 16, stop.clone(), accepted.clone()),
        load(&clients[1], 16, stop.clone(), accepted.clone()),
    );
    let accepted = accepted.load(Ordering::Relaxed);
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;

    let (granted, live): (i64, i64) = sqlx::query_as(
        "select (select sum(granted_units)::bigint from quota_pool), (select count(*) from quota_leases where state = 'live')",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(
        (granted, live),
        (accepted as i64, 0),
        "what was not spent was given back"
    );
    let runs: Vec<String> = sqlx::query_scalar("select distinct state from gateway_runs")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(runs, ["closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_under_load_ten_times_loses_and_doubles_nothing() {
    // With a spool nothing would be refused: see `spool`.
    let options = StackOptions {
        no_spool: true,
        ..StackOptions::default()
    };
    let mut stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "enterprise").await.unwrap();
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let unknown = Arc::new(AtomicU64::new(0));
    let client = Client::new(stack.gateway(0), &ada);
    let spending = async |stop: Arc<AtomicBool>| {
        while !stop.load(Ordering::Relaxed) {
            match client.spend("api_call", 1).await.unwrap().status.as_u16() {
                200 => accepted.fetch_add(1, Ordering::Relaxed),
                504 => unknown.fetch_add(1, Ordering::Relaxed),
                503 => 0, // not counted
                status => panic!("{status}"),
            };
        }
    };
    let killing = async {
        for _ in 0..10 {
            let before = accepted.load(Ordering::Relaxed);
            eventually("requests are accepted", async || {
                (accepted.load(Ordering::Relaxed) > before + 50).then_some(())
            })
            .await;
            stack.nats.kill().await.unwrap();
            stack.nats.restart().await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        killing,
        futures_util::future::join_all((0..16).map(|_| spending(stop.clone())))
    );
    let (accepted, unknown) = (accepted.load(Ordering::Relaxed), unknown.load(Ordering::Relaxed));
    let sums = eventually("what was accepted is stored", async || {
        stack
            .sums(ada.account_id)
            .await
            .ok()
            .filter(|sums| sums.events >= accepted)
    })
    .await;
    assert_eq!(sums.events, sums.distinct, "nothing is stored twice");
    assert!(
        (accepted..=accepted + unknown).contains(&sums.events),
        "{accepted} accepted, {unknown} unknown, {sums:?}"
    );
}

//! Stopping and dying: acknowledged events are stored, and held units are returned.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::header::CONTENT_TYPE, routing::any};
use devstack::{http::Http, upstream::Upstream};
use futures_util::{StreamExt, stream};
use harness::{Client, Stack, StackOptions, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::SERVICES;

/// Clients that spend single units until `stop` is set, and count the accepted requests.
async fn load(client: &Client, clients: usize, stop: Arc<AtomicBool>, accepted: Arc<AtomicU64>) {
    let one = async || {
        while !stop.load(Ordering::Relaxed) {
            // A stopped gateway refuses connections, or closes one before it has read the request.
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
        // Under load, one gateway and one ingestor are stopped first, then the other gateway.
        let reached = |count| {
            let accepted = accepted.clone();
            async move {
                eventually("requests are accepted under load", async || {
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
    assert_eq!((granted, live), (accepted as i64, 0), "unspent units were returned");
    let runs: Vec<String> = sqlx::query_scalar("select distinct state from gateway_runs")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(runs, ["closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigterm_a_service_is_not_ready_and_still_serves_for_the_delay() {
    let delay = vec![("SHUTDOWN_DELAY", "3".to_owned())];
    let options = StackOptions {
        gateway_env: delay.clone(),
        billing_env: delay,
        ..StackOptions::default()
    };
    let mut stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    let gateway = Client::new(stack.gateway(0), &ada);
    let http = Http::default();
    let billing = format!("{}/billing/usage", stack.billing_url);
    let urls = [stack.gateways[0].service.admin_url(), stack.billing.admin_url()].map(|url| format!("{url}/readyz"));
    let is_leaving = async |url: &str, line: &str| {
        eventually("the service is not ready", async || {
            let ready = http.get(url, "").await.ok()?;
            let report = String::from_utf8_lossy(&ready.body).into_owned();
            (ready.status == 503 && report.contains(line)).then_some(())
        })
        .await;
    };
    let (ended, ()) = tokio::join!(stack.gateways[0].service.stop(Duration::from_secs(40)), async {
        is_leaving(&urls[0], "gateway: stopping").await;
        assert_eq!(gateway.spend("api_call", 1).await.unwrap().status, 200);
    });
    assert!(ended.unwrap().success());
    assert!(gateway.spend("api_call", 1).await.is_err(), "the port is closed");
    let (ended, ()) = tokio::join!(stack.billing.stop(Duration::from_secs(40)), async {
        is_leaving(&urls[1], "service: stopping").await;
        assert_eq!(http.get(&billing, &ada.key).await.unwrap().status, 200);
    });
    assert!(ended.unwrap().success());
    stack.assert_stored(ada.account_id, 1, 1).await;
}

/// An upstream that begins an event stream and never ends it.
async fn streaming_upstream() -> Upstream {
    let stream = || async {
        let first = stream::once(async { Ok::<_, Infallible>("data: 1\n\n") });
        (
            [(CONTENT_TYPE, "text/event-stream")],
            Body::from_stream(first.chain(stream::pending())),
        )
    };
    Upstream::serve(Router::new().fallback(any(stream))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_an_open_event_stream_ends_normally() {
    let upstream = streaming_upstream().await;
    let options = StackOptions {
        upstream_url: Some(upstream.url().to_owned()),
        gateway_env: vec![("SHUTDOWN_DEADLINE", "6".to_owned())],
        ..StackOptions::default()
    };
    let mut stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    let url = stack.gateway(0).to_owned();
    let mut connection = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let request = format!(
        "GET /api/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n",
        ada.key
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !String::from_utf8_lossy(&head).contains("data: 1") {
        assert_ne!(connection.read_buf(&mut head).await.unwrap(), 0, "the stream is open");
    }

    let ended = stack.gateways[0].service.stop(Duration::from_secs(40)).await.unwrap();

    assert!(ended.success(), "no work was left, but the gateway ended with {ended}");
    let mut rest = Vec::new();
    // The connection is closed, with or without a reset.
    connection.read_to_end(&mut rest).await.ok();
    stack.assert_stored(ada.account_id, 1, 1).await;
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
    let sums = eventually("the accepted requests are stored", async || {
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

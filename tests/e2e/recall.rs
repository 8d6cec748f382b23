//! Limits are hard and refusals are correct across several gateways, from the view of clients: units that one gateway holds are
//! recalled before another gateway refuses, and a refusal costs nothing while it is remembered.

use std::{
    future::IntoFuture,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::Router;
use devstack::{
    admin::Customer,
    http::{Http, HttpResponse},
};
use futures_util::future::join_all;
use harness::{Client, Stack, StackOptions, eventually, wait::SOON};
use http::StatusCode;
use serde_json::json;
use service::Lifecycle;
use tokio::{net::TcpListener, sync::Semaphore};
use uuid::Uuid;

use crate::SERVICES;

struct Rig {
    stack: Stack,
    ada: Customer,
    /// One per gateway.
    clients: Vec<Client>,
}

/// With these timeouts a slow machine is not mistaken for a silent gateway.
fn patient() -> StackOptions {
    let settings = [("RECALL_WAIT", "1.5"), ("QUOTA_WAIT", "20")];
    StackOptions {
        gateway_env: settings.map(|(name, value)| (name, value.to_owned())).to_vec(),
        ..StackOptions::default()
    }
}

impl Rig {
    async fn start(gateways: usize, limit: i64) -> Self {
        Self::start_with(gateways, limit, patient()).await
    }

    async fn start_with(gateways: usize, limit: i64, options: StackOptions) -> Self {
        let options = StackOptions { gateways, ..options };
        let stack = Stack::start(SERVICES, options).await.unwrap();
        let ada = stack.admin.customer("ada", "pro").await.unwrap();
        stack.admin.set_limit(ada.account_id, "api_call", limit).await.unwrap();
        let clients = (0..gateways).map(|n| Client::new(stack.gateway(n), &ada)).collect();
        Self { stack, ada, clients }
    }

    async fn status(&self, gateway: usize) -> u16 {
        self.clients[gateway]
            .spend("api_call", 1)
            .await
            .unwrap()
            .status
            .as_u16()
    }

    /// Spends single units until a request is refused. Returns the number of accepted requests and the refusal.
    async fn exhaust(&self, gateway: usize) -> (i64, HttpResponse) {
        let mut accepted = 0;
        loop {
            let answer = self.clients[gateway].spend("api_call", 1).await.unwrap();
            match answer.status.as_u16() {
                200 => accepted += 1,
                429 => return (accepted, answer),
                _ => panic!("{answer:?}"),
            }
        }
    }

    /// Asserts that every gateway refuses twice. The second refusal comes from memory.
    async fn is_refused_everywhere(&self) {
        for gateway in 0..self.clients.len() {
            for _ in 0..2 {
                assert_eq!(self.status(gateway).await, 429);
            }
        }
    }

    async fn is_admitted_soon(&self, gateway: usize) {
        let since = Instant::now();
        eventually("a request is admitted", async || {
            (self.status(gateway).await == 200).then_some(())
        })
        .await;
        assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    }

    /// The sum of a counter over all gateways, such as `refusals_total{source="asked"}`.
    async fn metric(&self, name: &str) -> u64 {
        let each = (0..self.clients.len()).map(|gateway| self.metric_of(gateway, name));
        join_all(each).await.iter().sum()
    }

    async fn metric_of(&self, gateway: usize, name: &str) -> u64 {
        let gateway = &self.stack.gateways[gateway].service;
        gateway.metric(&format!("gateway_quota_{name}")).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_gateways_admit_exactly_the_limit_and_remember_their_refusals() {
    const LIMIT: i64 = 1_500;
    const REFUSALS: usize = 40;
    let rig = Rig::start(4, LIMIT).await;
    // When each call began and ended, and whether it was admitted.
    let calls = Mutex::new(Vec::new());
    let client = async |client: &Client| {
        let mut refused = 0;
        while refused < REFUSALS {
            let began = Instant::now();
            let status = client.spend("api_call", 1).await.unwrap().status.as_u16();
            assert!(status == 200 || status == 429, "{status}");
            refused += usize::from(status == 429);
            calls.lock().unwrap().push((began, Instant::now(), status == 200));
        }
    };
    join_all((0..64).map(|n| client(&rig.clients[n % 4]))).await;

    let calls = calls.into_inner().unwrap();
    let admitted = calls.iter().filter(|(_, _, admitted)| *admitted);
    assert_eq!(admitted.clone().count() as i64, LIMIT);
    // Each admitted call costs one unit, so at the first refusal all units were spent, or reserved by calls in progress.
    let first_refusal = calls
        .iter()
        .filter(|(_, _, admitted)| !admitted)
        .map(|(_, ended, _)| *ended)
        .min();
    let falsely = admitted.filter(|(began, _, _)| Some(*began) > first_refusal).count();
    assert_eq!(falsely, 0, "admitted after others were refused");
    let remembered = rig.metric("refusals_total{source=\"remembered\"}").await;
    let all = rig.metric("refused_total{reason=\"limit\"}").await;
    assert_eq!(all, 64 * REFUSALS as u64);
    assert!(
        remembered * 100 >= all * 95,
        "{remembered} of {all} refusals were remembered"
    );
    rig.stack.assert_stored(rig.ada.account_id, LIMIT as u64, LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_limit_and_a_correction_discard_refusals_within_a_second() {
    let rig = Rig::start(2, 60).await;
    let (accepted, refusal) = rig.exhaust(0).await;
    assert_eq!(accepted, 60);
    let problem = refusal.json().unwrap();
    assert_eq!((&problem["current_usage"], &problem["limit"]), (&json!(60), &json!(60)));
    rig.is_refused_everywhere().await;

    rig.stack
        .admin
        .set_limit(rig.ada.account_id, "api_call", 61)
        .await
        .unwrap();
    rig.is_admitted_soon(1).await;
    rig.is_refused_everywhere().await;

    let event = eventually("an event is stored", async || {
        let events = "select toString(event_id) from usage_events limit 1";
        rig.stack.clickhouse.query(events).fetch_one::<String>().await.ok()
    })
    .await;
    let correction = json!({
        "correction_id": Uuid::now_v7(), "account_id": rig.ada.account_id, "reason": "an outage of ours", "by": "eve",
        "events": [{ "event_id": event, "void": true }],
    });
    let url = format!("{}/admin/corrections", rig.stack.billing.admin_url());
    let made = Http::default()
        .post(&url, &rig.stack.admin_token, &correction)
        .await
        .unwrap();
    made.ok().unwrap();
    eventually("the correction is published", async || {
        let waiting: i64 = sqlx::query_scalar("select count(*) from corrections where published_at is null")
            .fetch_one(&rig.stack.pool)
            .await
            .unwrap();
        (waiting == 0).then_some(())
    })
    .await;
    rig.is_admitted_soon(1).await;
    rig.is_refused_everywhere().await;
    // 62 requests and the correction.
    rig.stack.assert_stored(rig.ada.account_id, 63, 61).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_calls_that_fail_upstream_are_available_at_the_other_gateway() {
    let release = Arc::new(Semaphore::new(0));
    let upstream_life = Lifecycle::new();
    let options = StackOptions {
        upstream_url: Some(failing_upstream(Arc::clone(&release), &upstream_life).await),
        ..patient()
    };
    let rig = Rig::start_with(2, 40, options).await;
    let failing = async || {
        let answer = rig.clients[0].get("/api/posts/search").await.unwrap();
        assert_eq!(answer.status, 500);
    };
    let refusing = async {
        eventually("the calls are in progress", async || {
            let local = rig.metric("admitted_total{source=\"local\"}").await;
            let asked = rig.metric("admitted_total{source=\"postgres\"}").await;
            (local + asked == 10).then_some(())
        })
        .await;
        let (admitted, _) = rig.exhaust(1).await;
        rig.is_refused_everywhere().await;
        release.add_permits(10);
        admitted
    };
    let (_, admitted) = tokio::join!(join_all((0..10).map(|_| failing())), refusing);
    assert_eq!(admitted, 30, "10 are reserved at the other gateway");
    rig.is_admitted_soon(1).await;
    assert_eq!(rig.exhaust(1).await.0, 9);
    rig.is_refused_everywhere().await;
    rig.stack.assert_stored(rig.ada.account_id, 50, 40).await;
    upstream_life.stop();
}

/// An upstream that fails every request, but only after its release.
async fn failing_upstream(release: Arc<Semaphore>, life: &Lifecycle) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let fail = async move || {
        release.acquire().await.unwrap().forget();
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let serving = axum::serve(listener, Router::new().fallback(fail)).into_future();
    life.spawn(life.token().run_until_cancelled_owned(serving));
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_gateway_that_holds_units_slows_no_client_down() {
    let mut rig = Rig::start_with(3, 200, StackOptions::default()).await;
    assert_eq!(rig.status(0).await, 200);
    assert_eq!(rig.status(1).await, 200);
    rig.stack.gateways[0].service.pause().unwrap();
    let (accepted, _) = rig.exhaust(1).await;
    assert_eq!(
        accepted,
        200 - 1 - 16,
        "the units of the paused gateway are not available"
    );
    let began = Instant::now();
    let mut refused = 0;
    while began.elapsed() < Duration::from_secs(3) || refused < 20 {
        assert_eq!(rig.status(1).await, 429);
        refused += 1;
    }
    let seconds = began.elapsed().as_secs();
    let incomplete = rig.metric_of(1, "recalls_total{outcome=\"incomplete\"}").await;
    assert!(
        (2..=seconds + 3).contains(&incomplete) && incomplete < refused,
        "once a second, not at every request: {incomplete} in {seconds} s of {refused} requests"
    );
    let timed_out = rig.metric_of(1, "recalls_timed_out_total").await;
    assert_eq!(timed_out, 1, "no request waits for it again");

    rig.stack.gateways[0].service.resume().unwrap();
    let since = Instant::now();
    let mut more = 0;
    while more < 15 {
        more += i64::from(rig.status(2).await == 200);
        assert!(
            since.elapsed() < Duration::from_secs(15),
            "{more} of 15 units came back"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.is_refused_everywhere().await;
    rig.stack.assert_stored(rig.ada.account_id, 200, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn far_from_its_limit_a_counter_seldom_asks_postgres() {
    let rig = Rig::start(2, 1_000_000).await;
    // Sixteen clients at full speed, starting with a cold counter.
    let since = Instant::now();
    let client = async |client: &Client| {
        for _ in 0..250 {
            assert_eq!(client.spend("api_call", 1).await.unwrap().status, 200);
        }
    };
    join_all((0..16).map(|n| client(&rig.clients[n % 2]))).await;
    let accepted = 16 * 250;
    let local = rig.metric("admitted_total{source=\"local\"}").await;
    let asked = rig.metric("admitted_total{source=\"postgres\"}").await;
    assert_eq!(local + asked, accepted);
    // A lease lasts for about two seconds of requests, so a slow machine asks for a larger part of its fewer requests: the first
    // leases of a cold counter, then about one in a second, at each gateway.
    let seldom = (accepted / 100).max(8 + 2 * since.elapsed().as_secs());
    assert!(
        asked <= seldom,
        "{asked} of {accepted} asked Postgres, in {:?}",
        since.elapsed()
    );
    rig.stack
        .assert_stored(rig.ada.account_id, accepted, accepted as i64)
        .await;
}

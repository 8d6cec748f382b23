//! Gateways that are presumed dead although they are only paused: SIGSTOP for longer than the heartbeat timeout, then SIGCONT.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use axum::{Router, extract::Request, routing::any};
use devstack::{DataDir, admin::Customer, http::Http, upstream::Upstream};
use harness::{Stack, StackOptions, eventually};
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use super::rig::{
    History, SpendOutcome, accepted, assert_granted_is_stored, load, options, outcome_of, passed, runs, until_settled,
};
use crate::SERVICES;

/// An upstream that answers only after it is released.
struct SlowUpstream {
    upstream: Upstream,
    /// How often each path was requested.
    calls: Arc<Mutex<HashMap<String, u32>>>,
    go: watch::Sender<bool>,
}

impl SlowUpstream {
    async fn start() -> Self {
        let (go, gone) = watch::channel(false);
        let calls = Arc::new(Mutex::new(HashMap::new()));
        let answer = {
            let calls = calls.clone();
            move |request: Request| {
                let (calls, mut gone) = (calls.clone(), gone.clone());
                async move {
                    *calls
                        .lock()
                        .unwrap()
                        .entry(request.uri().path().to_owned())
                        .or_insert(0) += 1;
                    gone.wait_for(|gone| *gone).await.unwrap();
                    "done"
                }
            }
        };
        let upstream = Upstream::serve(Router::new().fallback(any(answer))).await.unwrap();
        Self { upstream, calls, go }
    }

    async fn works_on(&self, calls: usize) {
        eventually("the upstream works", async || {
            (self.calls.lock().unwrap().len() == calls).then_some(())
        })
        .await;
    }

    fn assert_each_asked_once(&self) {
        assert!(self.calls.lock().unwrap().values().all(|times| *times == 1));
    }
}

/// Routes with the cost in the request.
fn with_routes(upstream: &SlowUpstream, directory: &Path) -> StackOptions {
    let routes = directory.join("routes.toml");
    std::fs::write(
        &routes,
        "[[route]]\nmethod = \"GET\"\npath = \"/api/{*rest}\"\nusage_type = \"api_call\"\ncost = { header = \"x-units\" }\n",
    )
    .unwrap();
    let mut stack = options(2);
    stack.upstream_url = Some(upstream.upstream.url().to_owned());
    stack.gateway_env.extend([
        ("ROUTES_FILE", routes.to_str().unwrap().to_owned()),
        // It continues while the gateway is stopped.
        ("UPSTREAM_ANSWER_TIMEOUT", "120".to_owned()),
    ]);
    stack
}

/// Stops the first gateway until its run, one of `before`, is settled.
async fn stopped_and_settled(stack: &mut Stack, before: &[Uuid]) -> Uuid {
    stack.gateways[0].service.pause().unwrap();
    eventually("the run of the stopped gateway is settled", async || {
        let settled = runs(&stack.pool, "settled").await;
        settled.into_iter().find(|run| before.contains(run))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_gateway_drops_its_leases_continues_in_a_new_run_and_loses_nothing() {
    let upstream = SlowUpstream::start().await;
    let data = DataDir::create().unwrap();
    let mut stack = Stack::start(SERVICES, with_routes(&upstream, data.path()))
        .await
        .unwrap();
    let ada = stack.admin.customer("ada", "enterprise").await.unwrap();
    let urls: Vec<_> = stack.gateways.iter().map(|gateway| gateway.url.clone()).collect();
    let (history, stop, http) = (History::default(), AtomicBool::new(false), Http::default());

    let before = runs(&stack.pool, "live").await;
    let stopping = async {
        accepted(&history, 300).await;
        // The gateway is paused while the upstream works on all requests.
        upstream.works_on(20).await;
        let settled = stopped_and_settled(&mut stack, &before).await;
        upstream.go.send_replace(true);
        stack.gateways[0].service.resume().unwrap();
        eventually("it has a new run", async || {
            let live = runs(&stack.pool, "live").await;
            (live.len() == 2 && !live.contains(&settled)).then_some(())
        })
        .await;
        let so_far = history.accepted.load(Relaxed);
        accepted(&history, so_far + 300).await;
        stop.store(true, Relaxed);
        settled
    };
    let passing = async {
        accepted(&history, 200).await;
        let pass = async |n: usize| {
            let path = format!("/api/{n}");
            let status = passed(&http, &urls[0], &ada, &path, 1).await;
            history.note(path, outcome_of(status));
            status
        };
        futures_util::future::join_all((0..20).map(pass)).await
    };
    let (ended, statuses, ()) = tokio::join!(stopping, passing, load(&urls, 8, &ada, &history, &stop));

    // The upstream had answered, and the run was gone: the request is admitted again in the new run, and not forwarded again.
    assert_eq!(statuses, vec![Some(200); 20]);
    upstream.assert_each_asked_once();
    history.assert_true(&stack, ada.account_id).await;
    let of_ended = "select count() from usage_events where run_id = ? and endpoint like '/api/%'";
    let of_ended = stack.clickhouse.query(of_ended).bind(ended.to_string());
    assert_eq!(of_ended.fetch_one::<u64>().await.unwrap(), 0);
    assert_granted_is_stored(&stack, ada.account_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_refused_when_others_spent_its_units_before_it_is_admitted_again() {
    let upstream = SlowUpstream::start().await;
    let data = DataDir::create().unwrap();
    let mut stack = Stack::start(SERVICES, with_routes(&upstream, data.path()))
        .await
        .unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    stack.admin.set_limit(ada.account_id, "api_call", 5).await.unwrap();
    let urls: Vec<_> = stack.gateways.iter().map(|gateway| gateway.url.clone()).collect();
    let (history, http) = (History::default(), Http::default());
    let before = runs(&stack.pool, "live").await;
    let stopping = async {
        upstream.works_on(1).await;
        stopped_and_settled(&mut stack, &before).await;
        for _ in 0..5 {
            eventually("others spent its units", async || {
                (history.spend(&http, &urls[1], &ada).await == SpendOutcome::Accepted).then_some(())
            })
            .await;
        }
        upstream.go.send_replace(true);
        stack.gateways[0].service.resume().unwrap();
    };
    let (status, ()) = tokio::join!(passed(&http, &urls[0], &ada, "/api/late", 5), stopping);
    assert_eq!(status, Some(429));
    upstream.assert_each_asked_once();
    history.note("/api/late".into(), outcome_of(status));
    history.assert_true(&stack, ada.account_id).await;
    assert_granted_is_stored(&stack, ada.account_id).await;
    assert_eq!(stack.sums(ada.account_id).await.unwrap().units, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_key_was_revoked_meanwhile_is_not_admitted_again() {
    let upstream = SlowUpstream::start().await;
    let data = DataDir::create().unwrap();
    let mut stack = Stack::start(SERVICES, with_routes(&upstream, data.path()))
        .await
        .unwrap();
    let ada = stack.admin.customer("ada", "enterprise").await.unwrap();
    let url = stack.gateway(0).to_owned();
    let (history, http) = (History::default(), Http::default());
    let before = runs(&stack.pool, "live").await;
    let stopping = async {
        upstream.works_on(1).await;
        stopped_and_settled(&mut stack, &before).await;
        let revoked = sqlx::query("update api_keys set revoked_at = now() where account_id = $1")
            .bind(ada.account_id.0)
            .execute(&stack.pool)
            .await
            .unwrap();
        assert_eq!(revoked.rows_affected(), 1);
        upstream.go.send_replace(true);
        stack.gateways[0].service.resume().unwrap();
    };
    let (status, ()) = tokio::join!(passed(&http, &url, &ada, "/api/revoked", 5), stopping);
    assert_eq!(status, Some(503));
    upstream.assert_each_asked_once();
    history.note("/api/revoked".into(), outcome_of(status));
    history.assert_true(&stack, ada.account_id).await;
    assert_granted_is_stored(&stack, ada.account_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_request_waits_for_postgres_to_be_admitted_again() {
    let upstream = SlowUpstream::start().await;
    let data = DataDir::create().unwrap();
    let mut stack = Stack::start(SERVICES, with_routes(&upstream, data.path()))
        .await
        .unwrap();
    let ada = stack.admin.customer("ada", "enterprise").await.unwrap();
    let url = stack.gateway(0).to_owned();
    let (history, http) = (History::default(), Http::default());
    let before = runs(&stack.pool, "live").await;
    let stopping = async {
        upstream.works_on(1).await;
        stopped_and_settled(&mut stack, &before).await;
        let mut locked = stack.pool.begin().await.unwrap();
        sqlx::query("lock table quota_pool")
            .execute(&mut *locked)
            .await
            .unwrap();
        upstream.go.send_replace(true);
        stack.gateways[0].service.resume().unwrap();
        eventually("no units can be taken", async || {
            let refused = "gateway_quota_refused_total{reason=\"unavailable\"}";
            let refused = stack.gateways[0].service.metric::<u64>(refused).await.ok()?;
            (refused > 0).then_some(())
        })
        .await;
        locked.rollback().await.unwrap();
    };
    let (status, ()) = tokio::join!(passed(&http, &url, &ada, "/api/served", 5), stopping);
    assert_eq!(status, Some(200));
    upstream.assert_each_asked_once();
    history.note("/api/served".into(), outcome_of(status));
    history.assert_true(&stack, ada.account_id).await;
    assert_granted_is_stored(&stack, ada.account_id).await;
}

/// Sends batches of ten, one at a time, until `stop` is set.
async fn batches(gateway: &str, customer: &Customer, history: &History, stop: &AtomicBool) {
    let http = Http::default();
    for n in 0.. {
        if stop.load(Relaxed) {
            return;
        }
        let endpoints: Vec<_> = (0..10).map(|k| format!("/batch/{n}/{k}")).collect();
        let event = |endpoint| json!({ "usage_type": "api_call", "endpoint": endpoint });
        let body = json!({ "events": endpoints.iter().map(event).collect::<Vec<_>>() });
        let answer = http
            .post(&format!("{gateway}/v1/usage/batch"), &customer.key, &body)
            .await;
        let results = answer.unwrap().ok().unwrap();
        for (endpoint, result) in endpoints.into_iter().zip(results["results"].as_array().unwrap()) {
            let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok());
            history.note(endpoint, outcome_of(status));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_ended_under_load_is_settled_and_its_gateway_continues_in_a_new_one() {
    let mut stack = Stack::start(SERVICES, options(1)).await.unwrap();
    let ada = stack.admin.customer("ada", "enterprise").await.unwrap();
    let plenty = 100_000_000;
    stack.admin.set_limit(ada.account_id, "api_call", plenty).await.unwrap();
    let urls = [stack.gateway(0).to_owned()];
    let (history, stop) = (History::default(), AtomicBool::new(false));
    let ending = async {
        for _ in 0..5 {
            accepted(&history, history.accepted.load(Relaxed) + 300).await;
            let [run] = runs(&stack.pool, "live").await[..] else {
                panic!("one gateway has one run");
            };
            // As if the run was found silent: the gateway reads its row at the next heartbeat and gives the run up.
            sqlx::query("update gateway_runs set state = 'fencing' where id = $1")
                .bind(run)
                .execute(&stack.pool)
                .await
                .unwrap();
            until_settled(&stack.pool, run).await;
        }
        accepted(&history, history.accepted.load(Relaxed) + 300).await;
        stop.store(true, Relaxed);
    };
    tokio::join!(
        ending,
        load(&urls, 16, &ada, &history, &stop),
        batches(&urls[0], &ada, &history, &stop)
    );
    let admitted_again = stack.gateways[0].service.metric::<u64>("http_admitted_anew_total");
    assert!(
        admitted_again.await.unwrap() > 0,
        "some requests were running each time"
    );
    history.assert_true(&stack, ada.account_id).await;
    assert_granted_is_stored(&stack, ada.account_id).await;
    let stopped = stack.gateways[0].service.stop(harness::PATIENCE).await.unwrap();
    assert!(stopped.success());
}

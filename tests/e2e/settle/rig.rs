//! A system that notices a death within seconds, clients that record their responses, and dead runs with chosen leases.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use devstack::{
    admin::Customer,
    http::{Http, request},
};
use harness::{Stack, StackOptions, eventually};
use lane::{
    gathered::BatchLimits,
    link::Link,
    metrics::LaneMetrics,
    publisher::{NoUnits, Outgoing, PublishOutcome, Publisher, QueueLimits},
    run::{RunLimits, Runs},
    task::LaneLimits,
};
use schema::{AccountId, EventId, KeyId, LeaseId, RunId, SubscriptionId, UsageEvent};
use serde_json::json;
use service::{Health, Lifecycle, nats::NatsSettings};
use sqlx::PgPool;
use uuid::Uuid;

/// Far longer than the heartbeat interval, far shorter than the timeout of a test.
const DEAD_AFTER: &str = "3";

pub(super) fn options(gateways: usize) -> StackOptions {
    StackOptions {
        gateways,
        gateway_env: vec![
            ("HEARTBEAT_INTERVAL", "0.3".into()),
            // Idle units are returned, so that the gateways hold none at the end.
            ("LEASE_IDLE", "1".into()),
        ],
        ingestor_env: vec![("BATCH_AGE_MAX", "0.1".into()), ("SHARDS", "4".into())],
        billing_env: vec![
            ("RUN_DEAD_AFTER", DEAD_AFTER.into()),
            ("HEARTBEAT_INTERVAL_MAX", "0.3".into()),
        ],
        ..StackOptions::default()
    }
}

/// The outcome of each request. Each request has its own endpoint.
#[derive(Default)]
pub(super) struct History {
    next: AtomicU64,
    pub accepted: AtomicU64,
    outcomes: Mutex<HashMap<String, SpendOutcome>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpendOutcome {
    Accepted,
    /// Certainly not counted.
    Refused,
    /// `504`, or no answer at all.
    Unknown,
}

impl History {
    /// Spends one unit through a gateway.
    pub(super) async fn spend(&self, http: &Http, gateway: &str, customer: &Customer) -> SpendOutcome {
        let endpoint = format!("/n/{}", self.next.fetch_add(1, Relaxed));
        let body = json!({ "usage_type": "api_call", "endpoint": endpoint });
        let answer = http.post(&format!("{gateway}/v1/usage"), &customer.key, &body).await;
        let outcome = outcome_of(answer.map(|answer| answer.status.as_u16()).ok());
        self.note(endpoint, outcome);
        outcome
    }

    pub(super) fn note(&self, endpoint: String, outcome: SpendOutcome) {
        if outcome == SpendOutcome::Accepted {
            self.accepted.fetch_add(1, Relaxed);
        }
        self.outcomes.lock().unwrap().insert(endpoint, outcome);
    }

    /// The ledger check: accepted requests are stored once, refused ones never, unknown ones at most once, and nothing else is
    /// stored.
    pub(super) async fn assert_true(&self, stack: &Stack, account: AccountId) {
        let outcomes = self.outcomes.lock().unwrap().clone();
        // By endpoint: unknown requests may be stored as well, so a count would be reached too early.
        let mut stored = eventually("the accepted requests are stored", async || {
            let query = "select endpoint, count() from usage_events where account_id = ? group by endpoint";
            let stored = stack.clickhouse.query(query).bind(account.0.to_string());
            let stored: HashMap<String, u64> = stored.fetch_all::<(String, u64)>().await.ok()?.into_iter().collect();
            let is_there = |(endpoint, outcome): (&String, &SpendOutcome)| {
                *outcome != SpendOutcome::Accepted || stored.contains_key(endpoint)
            };
            outcomes.iter().all(is_there).then_some(stored)
        })
        .await;
        for (endpoint, outcome) in &outcomes {
            let times = stored.remove(endpoint).unwrap_or(0);
            match outcome {
                SpendOutcome::Accepted => assert_eq!(times, 1, "{endpoint} was accepted"),
                SpendOutcome::Refused => assert_eq!(times, 0, "{endpoint} was refused"),
                SpendOutcome::Unknown => assert!(times <= 1, "{endpoint} is stored {times} times"),
            }
        }
        assert!(stored.is_empty(), "no client sent these: {stored:?}");
    }
}

/// The meaning of a status. `None`: no response.
pub(super) fn outcome_of(status: Option<u16>) -> SpendOutcome {
    match status {
        Some(200) => SpendOutcome::Accepted,
        Some(429 | 503) => SpendOutcome::Refused,
        Some(504) | None => SpendOutcome::Unknown,
        Some(other) => panic!("{other}"),
    }
}

/// Clients that spend single units at each of these gateways until `stop` is set.
pub(super) async fn load(
    gateways: &[String],
    clients: usize,
    customer: &Customer,
    history: &History,
    stop: &AtomicBool,
) {
    let http = Http::default();
    let one = async |gateway: &str| {
        while !stop.load(Relaxed) {
            if history.spend(&http, gateway, customer).await != SpendOutcome::Accepted {
                // The client waits before its next request.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let clients = gateways.iter().flat_map(|gateway| (0..clients).map(|_| one(gateway)));
    futures_util::future::join_all(clients).await;
}

/// Waits until this many requests are accepted.
pub(super) async fn accepted(history: &History, count: u64) {
    eventually("requests are accepted", async || {
        (history.accepted.load(Relaxed) >= count).then_some(())
    })
    .await;
}

/// The runs in a state, except those of the billing worker.
pub(super) async fn runs(pool: &PgPool, state: &str) -> Vec<Uuid> {
    sqlx::query_scalar("select id from gateway_runs where state = $1 and gateway <> 'billing-worker' order by id")
        .bind(state)
        .fetch_all(pool)
        .await
        .unwrap_or_default()
}

pub(super) async fn until_settled(pool: &PgPool, run: Uuid) {
    eventually(&format!("the run {run} is settled"), async || {
        runs(pool, "settled").await.contains(&run).then_some(())
    })
    .await;
}

/// Waits until no lease is live, then asserts that the granted units equal the stored units.
pub(super) async fn assert_granted_is_stored(stack: &Stack, account: AccountId) {
    let (granted, stored) = eventually("no units are held, and all spent units are stored", async || {
        let query = "select (select coalesce(sum(granted_units), 0)::bigint from quota_pool where account_id = $1),
                            (select count(*) from quota_leases where account_id = $1 and state = 'live')";
        let (granted, live): (i64, i64) = sqlx::query_as(query)
            .bind(account.0)
            .fetch_one(&stack.pool)
            .await
            .ok()?;
        let stored = stack.sums(account).await.ok()?.units;
        (live == 0 && granted <= stored).then_some((granted, stored))
    })
    .await;
    assert_eq!(granted, stored, "granted and stored");
}

/// A request through the proxy that its upstream answers.
pub(super) async fn passed(http: &Http, gateway: &str, customer: &Customer, path: &str, units: i64) -> Option<u16> {
    let mut request = request(http::Method::GET, &format!("{gateway}{path}"), &customer.key, None).unwrap();
    request.headers_mut().insert("x-units", http::HeaderValue::from(units));
    let answer = http.send(request).await.ok()?;
    if answer.status != 200 {
        println!("{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Some(answer.status.as_u16())
}

/// A lease of a dead run, and how many of its units it spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub lease: LeaseId,
    pub account: AccountId,
    pub units: i64,
    pub spent: i64,
}

/// A run that took leases, published the events of the units it spent, and died as if by `kill -9`. The test creates it itself,
/// because a gateway does not take leases of chosen sizes.
pub(super) fn dead_run(stack: &Stack, left: Vec<Left>) -> RunId {
    let (database_url, nats_url) = (stack.endpoints.database_url.clone(), stack.endpoints.nats_url.clone());
    let die = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let run = runtime.block_on(live_and_leave(&database_url, nats_url, &left));
        runtime.shutdown_timeout(Duration::ZERO);
        run
    };
    std::thread::spawn(die).join().unwrap()
}

async fn live_and_leave(database_url: &str, nats_url: String, left: &[Left]) -> RunId {
    let pool = PgPool::connect(database_url).await.unwrap();
    let settings = NatsSettings {
        nats_url,
        nats_user: None,
        nats_password: None,
    };
    let client = service::nats::connect(&settings, "dying", &Health::new())
        .await
        .unwrap();
    let life = Lifecycle::new();
    let link = Link::watch(&client, &life);
    let runs = Runs {
        spool: None,
        name: "dying".into(),
        pool: pool.clone(),
        client,
        link: link.clone(),
        health: Health::new(),
        life,
        metrics: LaneMetrics::default(),
        limits: limits(),
    };
    let publisher = Publisher::<NoUnits>::new(link);
    let (run, lanes) = runs.begin().await.unwrap();
    publisher.install(lanes);
    take(&pool, run.id, left).await;
    let publishing = left.iter().filter(|left| left.spent > 0).map(async |left| {
        let slot = publisher.reserve(left.account).unwrap();
        let event = Outgoing {
            event: event(left).encode(),
            units: None,
        };
        assert_eq!(slot.publish(vec![event]).await, PublishOutcome::Stored);
    });
    futures_util::future::join_all(publishing).await;
    let id = run.id;
    // Dropping them would close the lanes.
    std::mem::forget((run, publisher, runs));
    id
}

async fn take(pool: &PgPool, run: RunId, left: &[Left]) {
    let column = |of: fn(&Left) -> i64| left.iter().map(of).collect::<Vec<_>>();
    let taken = sqlx::query(
        "with taken as (
             select * from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as t (lease_id, account_id, units)
         ), accounts as (
             insert into accounts (id, name, email)
             select distinct account_id, 'left', account_id || '@example.com' from taken on conflict do nothing
             returning id
         ), pools as (
             insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units, granted_units)
             select account_id, 'export', date_trunc('month', now()), date_trunc('month', now()) + interval '1 month',
                    1000000000, sum(units)
             from taken group by account_id
             on conflict (account_id, usage_type, period_start)
                 do update set granted_units = quota_pool.granted_units + excluded.granted_units
         )
         insert into quota_leases (id, run_id, account_id, usage_type, period_start, units)
         select lease_id, $4, account_id, 'export', date_trunc('month', now()), units from taken",
    )
    .bind(left.iter().map(|left| left.lease.0).collect::<Vec<_>>())
    .bind(left.iter().map(|left| left.account.0).collect::<Vec<_>>())
    .bind(column(|left| left.units))
    .bind(run.0)
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(taken.rows_affected(), left.len() as u64);
}

fn event(left: &Left) -> UsageEvent {
    UsageEvent {
        event_id: EventId::new(),
        account_id: left.account,
        key_id: KeyId::new(),
        subscription_id: SubscriptionId::NIL,
        period_start: 1_795_000_000,
        usage_type: "export".into(),
        cost_units: left.spent,
        endpoint: "/left".into(),
        method: "GET".into(),
        status: 200,
        request_id: "r".into(),
        ip_address: "::1".parse().unwrap(),
        user_agent: "left".into(),
        // A gateway is settled in the same way if its clock is years slow.
        time_ms: 1_500_000_000_000,
        lease_id: left.lease,
        idempotency_key: String::new(),
        corrects: EventId::NIL,
    }
}

fn limits() -> RunLimits {
    RunLimits {
        heartbeat_interval: Duration::from_millis(300),
        queue: QueueLimits {
            entries: 4_096,
            bytes: 4 << 20,
        },
        lane: LaneLimits {
            batch: BatchLimits {
                events: 500,
                bytes: 512 << 10,
            },
            attempt_timeout: Duration::from_secs(2),
            stuck_after: Duration::from_secs(5),
            outcome_deadline: Duration::from_secs(10),
        },
    }
}

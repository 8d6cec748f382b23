//! Corrections: what is lowered afterwards is lowered once, in ClickHouse and in the pool, whatever dies in between.

use std::{sync::Arc, time::Duration};

use billing_worker::{
    administration::{Administration, By},
    announce::Announcer,
    corrections::{
        self, NewCorrection, NewTarget, ledger, resolve,
        session::{Nats, Session},
    },
};
use devstack::{
    admin::Customer,
    http::{Answer, Http},
};
use harness::{Client, Stack, StackOptions, eventually};
use lane::{link::Link, metrics::LaneMetrics, publisher::Outcome};
use schema::{AccountId, Catalogue, EventId, LaneRecord, RunId, lane_record::Kind};
use serde_json::{Value, json};
use service::{Health, Lifecycle, nats::NatsSettings};
use sqlx::PgPool;
use tokio::process::Command;
use uuid::Uuid;

use crate::SERVICES;

/// A system with one customer.
struct Books {
    stack: Stack,
    ada: Customer,
    client: Client,
    http: Http,
}

/// How far a worker comes before it dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dies {
    BeforeThePublish,
    AfterThePublish,
}

impl Books {
    async fn open(options: StackOptions) -> Self {
        let stack = Stack::start(SERVICES, options).await.unwrap();
        let ada = stack.admin.customer("ada", "pro").await.unwrap();
        Self {
            client: Client::new(stack.gateway(0), &ada),
            http: Http::default(),
            stack,
            ada,
        }
    }

    /// Events of these costs, once they are stored.
    async fn spend(&self, usage_type: &str, costs: &[i64]) -> Vec<EventId> {
        let mut events = Vec::new();
        for cost in costs {
            let answer = self.client.spend(usage_type, *cost).await.unwrap().ok().unwrap();
            events.push(answer["event_id"].as_str().unwrap().parse().unwrap());
        }
        eventually("what was spent is stored", async || {
            let stored = "select event_id from usage_events where account_id = ? and usage_type = ?";
            let query = self.stack.clickhouse.query(&format!("select count() from ({stored})"));
            let rows = query
                .bind(self.ada.account_id.0.to_string())
                .bind(usage_type)
                .fetch_one::<u64>();
            (rows.await.ok()? >= costs.len() as u64).then_some(())
        })
        .await;
        events
    }

    fn request(&self, events: Value) -> Value {
        json!({
            "correction_id": Uuid::now_v7(), "account_id": self.ada.account_id, "reason": "an outage of ours", "by": "eve",
            "events": events,
        })
    }

    async fn correct(&self, request: &Value) -> Answer {
        let url = format!("{}/admin/corrections", self.stack.billing.admin_url());
        self.http.post(&url, &self.stack.admin_token, request).await.unwrap()
    }

    async fn read(&self, path: &str) -> Value {
        let url = format!("{}/admin/{path}", self.stack.billing.admin_url());
        self.http
            .get(&url, &self.stack.admin_token)
            .await
            .unwrap()
            .ok()
            .unwrap()
    }

    async fn until_published(&self) {
        eventually("every correction is published", async || {
            let waiting: i64 = sqlx::query_scalar("select count(*) from corrections where published_at is null")
                .fetch_one(&self.stack.pool)
                .await
                .unwrap();
            (waiting == 0).then_some(())
        })
        .await;
    }

    /// The administration of a worker in this process.
    fn admin(&self) -> Administration {
        Administration {
            db: self.stack.pool.clone(),
            catalogue: Arc::new(Catalogue::built_in()),
            announcer: Announcer::of_command(&nats_settings(&self.stack)),
            clickhouse: self.stack.clickhouse.clone(),
            corrections_wait: Arc::default(),
            by: By::Command,
            name: Some("a test".into()),
        }
    }

    /// A worker that is handed what waits and dies as by kill -9: its connections are cut, nothing is said to anybody. Not a
    /// process, because none could be killed at so exact a moment.
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
                let handed = ledger::hand(&db, session.run()).await.unwrap();
                assert!(!handed.is_empty());
                if dies == Dies::AfterThePublish {
                    let told = session.publish(handed).await;
                    assert!(told.iter().all(|told| told.outcome == Outcome::Stored), "{told:?}");
                }
                let run = session.run();
                // Dropped, it would close its lanes.
                std::mem::forget(session);
                run
            });
            runtime.shutdown_timeout(Duration::ZERO);
            run
        };
        std::thread::spawn(worker).join().unwrap()
    }

    /// The last word: each correction is one row of ClickHouse that copies its original, and of every pool exactly what
    /// ClickHouse sums up is granted once the gateways have given back the rest.
    async fn close(mut self, units: i64) {
        self.until_published().await;
        self.stack.billing.stop(Duration::from_secs(40)).await.unwrap();
        for gateway in &mut self.stack.gateways {
            assert!(gateway.service.stop(Duration::from_secs(40)).await.unwrap().success());
        }
        let account = self.ada.account_id.0.to_string();
        let in_ledger: Vec<(String, String, i64)> =
            sqlx::query_as("select id::text, event_id::text, delta_units from corrections order by id")
                .fetch_all(&self.stack.pool)
                .await
                .unwrap();
        let corrections = "select toString(c.event_id), toString(c.corrects), c.cost_units from usage_events c
             join (select * from usage_events) o on o.event_id = c.corrects
             where (c.account_id, c.usage_type, c.period_start, c.ts, c.endpoint, c.method, c.ip_address, c.subscription_id)
                 = (o.account_id, o.usage_type, o.period_start, o.ts, o.endpoint, o.method, o.ip_address, o.subscription_id)
                 and toString(c.lease_id) = '00000000-0000-0000-0000-000000000000'
             order by toString(c.event_id)";
        // Nobody writes any more, so this is what there will ever be.
        let in_stream = events_in_stream(&self.stack).await;
        eventually("all that is in the stream is in ClickHouse", async || {
            let rows = self
                .stack
                .clickhouse
                .query("select count() from usage_events")
                .fetch_one::<u64>();
            (rows.await.ok()? >= in_stream).then_some(())
        })
        .await;
        let stored: Vec<(String, String, i64)> =
            self.stack.clickhouse.query_raw(corrections).fetch_all().await.unwrap();
        assert_eq!(stored, in_ledger);
        let total = "select sum(cost_units) from usage_events where account_id = ?";
        let total: i64 = self
            .stack
            .clickhouse
            .query(total)
            .bind(&account)
            .fetch_one()
            .await
            .unwrap();
        assert_eq!(total, units);
        let pools: Vec<(String, i64)> =
            sqlx::query_as("select usage_type, granted_units from quota_pool order by usage_type")
                .fetch_all(&self.stack.pool)
                .await
                .unwrap();
        let sums =
            "select toString(usage_type), sum(cost_units) from usage_events group by usage_type order by usage_type";
        let sums: Vec<(String, i64)> = self.stack.clickhouse.query(sums).fetch_all().await.unwrap();
        assert_eq!(pools, sums);
    }
}

/// Events in all lanes.
async fn events_in_stream(stack: &Stack) -> u64 {
    let client = async_nats::connect(stack.nats.url()).await.unwrap();
    let stream = lane::stream::look(&client).await.unwrap();
    let mut events = 0;
    for sequence in 1..=stream.last_sequence {
        let message = stream.stream.get_raw_message(sequence).await.unwrap();
        if let Kind::Batch { events: batch, .. } = LaneRecord::decode(&message.payload).unwrap().kind {
            events += batch.len() as u64;
        }
    }
    events
}

fn nats_settings(stack: &Stack) -> NatsSettings {
    NatsSettings {
        nats_url: stack.nats.url().to_owned(),
        nats_user: None,
        nats_password: None,
    }
}

fn void(event: &EventId) -> Value {
    json!({ "event_id": event, "void": true })
}

#[tokio::test(flavor = "multi_thread")]
async fn corrected_units_leave_the_sums_and_turn_a_refusal_into_an_admission() {
    let books = Books::open(StackOptions::default()).await;
    books
        .stack
        .admin
        .set_limit(books.ada.account_id, "api_call", 10)
        .await
        .unwrap();
    let events = books.spend("api_call", &[6, 3, 1]).await;
    assert_eq!(books.client.spend("api_call", 1).await.unwrap().status, 429);

    // Six are taken back whole, three were too many by one.
    let request = books.request(json!([void(&events[0]), { "event_id": events[1], "cost_units": 2 }]));
    let made = books.correct(&request).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json().unwrap()["delta_units"], -7);
    // The answer was lost, so it is sent again.
    let again = books.correct(&request).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.json().unwrap()["delta_units"], -7);

    eventually("units that came back are admitted", async || {
        (books.client.spend("api_call", 7).await.unwrap().status == 200).then_some(())
    })
    .await;
    assert_eq!(books.client.spend("api_call", 1).await.unwrap().status, 429);

    // A second correction of one event takes what the first one left.
    let rest = books.request(json!([void(&events[1])]));
    assert_eq!(books.correct(&rest).await.ok().unwrap()["delta_units"], -2);
    books.until_published().await;
    let trail = books
        .read(&format!("corrections?account={}&limit=2", books.ada.account_id))
        .await;
    assert_eq!(trail["items"].as_array().unwrap().len(), 2);
    assert!(trail["items"].as_array().unwrap().iter().all(|item| {
        item["pool_returned_units"].as_i64() == item["delta_units"].as_i64().map(|units| -units)
            && item["requested_by"] == "eve"
    }));
    let next = trail["next"].as_str().unwrap();
    let more = books.read(&format!("corrections?after={next}")).await;
    assert_eq!(more["items"].as_array().unwrap().len(), 1);
    let audit = books.read(&format!("audit?account={}", books.ada.account_id)).await;
    let corrections = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "usage.correct");
    let corrections: Vec<_> = corrections
        .map(|entry| (&entry["actor_name"], &entry["details"]["delta_units"]))
        .collect();
    assert_eq!(corrections, [(&json!("eve"), &json!(-7)), (&json!("eve"), &json!(-2))]);
    books.close(8).await;
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
        corrections::create(&admin, request.clone()).await.unwrap();
        let run = books.worker_that_dies(dies);

        // As long as it may live, its rows are its own.
        let client = admin.announcer.client().cloned();
        let client = match client {
            Some(client) => client,
            None => service::nats::connect(&nats_settings(&books.stack), "test", &Health::new())
                .await
                .unwrap(),
        };
        let resolved = resolve::step(&admin.db, &admin.clickhouse, &client).await.unwrap();
        assert_eq!(resolved, resolve::Resolved::default());
        assert!(ledger::hand(&admin.db, run).await.unwrap().is_empty());

        sqlx::query("update gateway_runs set heartbeat_at = now() - interval '2 minutes' where id = $1")
            .bind(run.0)
            .execute(&books.stack.pool)
            .await
            .unwrap();
        books.stack.billing.restart().await.unwrap();
        books.until_published().await;
        assert!(corrections::create(&admin, request).await.unwrap().repeated);
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
async fn worker_that_was_taken_for_dead_publishes_nothing_more() {
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
    corrections::create(&admin, request(&events[0])).await.unwrap();
    let client = service::nats::connect(&nats_settings(&books.stack), "slow", &Health::new())
        .await
        .unwrap();
    let life = Lifecycle::new();
    let nats = Nats {
        link: Link::watch(&client, &life),
        client: client.clone(),
    };
    let slow = Session::begin(&admin.db, &nats, &LaneMetrics::default()).await.unwrap();
    let handed = ledger::hand(&admin.db, slow.run()).await.unwrap();
    // It is not dead, only slow; others do not wait for it.
    sqlx::query("update gateway_runs set state = 'fencing' where id = $1")
        .bind(slow.run().0)
        .execute(&admin.db)
        .await
        .unwrap();
    eventually("what it was handed waits again", async || {
        let resolved = resolve::step(&admin.db, &admin.clickhouse, &client).await.unwrap();
        (resolved.not_stored == 1).then_some(())
    })
    .await;
    books.stack.billing.restart().await.unwrap();
    books.until_published().await;
    let told = slow.publish(handed).await;
    assert!(told.iter().all(|told| told.outcome.is_not_stored()), "{told:?}");
    slow.abandon().await;
    corrections::create(&admin, request(&events[1])).await.unwrap();
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
    // Told to stop, it closes the run that it has.
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
async fn an_outcome_that_nobody_knows_is_looked_up_and_not_guessed() {
    let mut books = Books::open(StackOptions::default()).await;
    let events = books.spend("api_call", &[5, 7, 9]).await;
    books
        .correct(&books.request(json!([void(&events[0])])))
        .await
        .ok()
        .unwrap();
    books.until_published().await;
    // The worker's lanes are open still, and what it publishes is not answered.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_corrections_of_one_request_are_made_once_each_by_many_who_ask_at_once() {
    let books = Books::open(StackOptions::default()).await;
    let mut events = Vec::new();
    for _ in 0..10 {
        let batch: Vec<_> = (0..100)
            .map(|_| json!({ "usage_type": "api_call", "cost_units": 2 }))
            .collect();
        let answer = books
            .client
            .post("/v1/usage/batch", &json!({ "events": batch }))
            .await
            .unwrap();
        for result in answer.ok().unwrap()["results"].as_array().unwrap() {
            events.push(result["event_id"].as_str().unwrap().parse::<EventId>().unwrap());
        }
    }
    books.stack.assert_stored(books.ada.account_id, 1_000, 2_000).await;
    let targets: Vec<_> = events
        .iter()
        .map(|event| json!({ "event_id": event, "cost_units": 1 }))
        .collect();
    let request = books.request(json!(targets));
    let answers = futures_util::future::join_all((0..8).map(|_| books.correct(&request))).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(
        statuses.iter().filter(|status| **status == 201).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|status| **status == 200).count(),
        7,
        "{statuses:?}"
    );

    let one_more = events.iter().chain([&EventId::new()]).map(void).collect::<Vec<_>>();
    let refused = books.correct(&books.request(json!(one_more))).await;
    assert_eq!(
        (refused.status.as_u16(), refused.json().unwrap()["error"].clone()),
        (422, json!("bad_value"))
    );
    books.close(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_came_out_of_no_pool_go_back_to_none() {
    // Exports are billed past the limit: nothing is refused, and no lease is taken.
    let data = devstack::DataDir::create().unwrap();
    let plans = include_str!("../../schema/plans.toml").replace(
        "usage.export = { limit = 100 }",
        "usage.export = { limit = 100, mode = \"overage\", unit_price_micros = 1_000 }",
    );
    let file = data.path().join("plans.toml");
    std::fs::write(&file, plans).unwrap();
    let env = vec![("PLANS_FILE", file.to_str().unwrap().to_owned())];
    let books = Books::open(StackOptions {
        gateway_env: env.clone(),
        billing_env: env,
        ..StackOptions::default()
    })
    .await;
    let exports = books.spend("export", &[4]).await;
    let calls = books.spend("api_call", &[3]).await;
    // A pool that these units are not granted from must not be told of them: it would admit past the limit.
    sqlx::query(
        "insert into quota_pool select account_id, 'export', period_start, period_end, 100, 50 from quota_pool",
    )
    .execute(&books.stack.pool)
    .await
    .unwrap();
    let made = books
        .correct(&books.request(json!([void(&exports[0]), void(&calls[0])])))
        .await;
    assert_eq!(made.ok().unwrap()["delta_units"], -7);
    books.until_published().await;
    let export: i64 = sqlx::query_scalar("select granted_units from quota_pool where usage_type = 'export'")
        .fetch_one(&books.stack.pool)
        .await
        .unwrap();
    assert_eq!(export, 50);
    sqlx::query("update quota_pool set granted_units = 0 where usage_type = 'export'")
        .execute(&books.stack.pool)
        .await
        .unwrap();
    books.close(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_corrected_is_refused_whole_and_says_why() {
    let books = Books::open(StackOptions::default()).await;
    let bob = books.stack.admin.customer("bob", "pro").await.unwrap();
    let bobs = Client::new(books.stack.gateway(0), &bob)
        .spend("api_call", 9)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let bobs: EventId = bobs["event_id"].as_str().unwrap().parse().unwrap();
    books.stack.assert_stored(bob.account_id, 1, 9).await;
    let events = books.spend("api_call", &[10, 4]).await;
    let voided = books.request(json!([void(&events[0])]));
    books.correct(&voided).await.ok().unwrap();
    books.until_published().await;
    let correcting = books.read("corrections").await["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    books.stack.assert_stored(books.ada.account_id, 3, 4).await;
    let good = void(&events[1]);

    let nobody = AccountId::new().to_string();
    let with = |name: &str, value: Value| {
        let mut request = books.request(json!([good]));
        request[name] = value;
        request
    };
    let without = |name: &str| {
        let mut request = books.request(json!([good]));
        request.as_object_mut().unwrap().remove(name);
        request
    };
    for (request, status, error, named) in [
        (
            books.request(json!([good, void(&EventId::new())])),
            404,
            "unknown_event",
            "on its way",
        ),
        (books.request(json!([good, void(&bobs)])), 404, "unknown_event", "event"),
        (
            books.request(json!([good, void(&events[0])])),
            409,
            "nothing_to_correct",
            "0 units already",
        ),
        (
            books.request(json!([{ "event_id": events[1], "cost_units": 4 }])),
            409,
            "nothing_to_correct",
            "4 units already",
        ),
        (
            books.request(json!([{ "event_id": events[1], "cost_units": 5 }])),
            422,
            "not_lower",
            "only lowers",
        ),
        (
            books.request(json!([{ "event_id": events[1], "cost_units": -1 }])),
            422,
            "bad_value",
            "0 or more",
        ),
        (
            books.request(json!([{ "event_id": events[1], "cost_units": 1, "void": true }])),
            422,
            "bad_value",
            "either",
        ),
        (
            books.request(json!([{ "event_id": events[1] }])),
            422,
            "bad_value",
            "either",
        ),
        (books.request(json!([good, good])), 422, "bad_value", "once"),
        (books.request(json!([])), 422, "bad_value", "1 to 1000"),
        (
            books.request(json!([{ "event_id": correcting, "void": true }])),
            422,
            "corrects_correction",
            "itself",
        ),
        (
            with("correction_id", voided["correction_id"].clone()),
            409,
            "correction_taken",
            "new correction_id",
        ),
        (with("account_id", json!(nobody)), 404, "unknown_account", &nobody),
        (with("reason", json!(" ")), 422, "bad_value", "reason"),
        (with("by", json!("a\nb")), 422, "bad_value", "by"),
        (without("reason"), 400, "malformed_request", "reason"),
        (without("by"), 400, "malformed_request", "by"),
        (without("correction_id"), 400, "malformed_request", "correction_id"),
    ] {
        let answer = books.correct(&request).await;
        let problem = answer.json().unwrap();
        assert_eq!(
            (answer.status.as_u16(), &problem["error"]),
            (status, &json!(error)),
            "{request}: {problem}"
        );
        assert!(
            problem["message"].as_str().unwrap().contains(named),
            "{request}: {problem}"
        );
    }
    let rows: i64 = sqlx::query_scalar("select count(*) from corrections")
        .fetch_one(&books.stack.pool)
        .await
        .unwrap();
    assert_eq!(rows, 1, "nothing was corrected in part");
    // And bob's event is bob's.
    let mut request = books.request(json!([void(&bobs)]));
    request["account_id"] = json!(bob.account_id);
    books.correct(&request).await.ok().unwrap();
    eventually("bob's is taken back", async || {
        let sums = books.stack.sums(bob.account_id).await.unwrap();
        (sums.units == 0 && sums.events == 2).then_some(())
    })
    .await;
    let (stack_sum, rows): (i64, i64) = sqlx::query_as("select sum(delta_units)::bigint, count(*) from corrections")
        .fetch_one(&books.stack.pool)
        .await
        .unwrap();
    assert_eq!((stack_sum, rows), (-19, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_correct_and_list_as_the_api_does() {
    let books = Books::open(StackOptions::default()).await;
    let events = books.spend("api_call", &[5, 7]).await;
    let command = async |args: &str| -> Value {
        let mut command = Command::new(SERVICES);
        let endpoints = &books.stack.endpoints;
        command
            .args(["service", "billing-worker"])
            .args(args.split(' '))
            .arg("--json")
            .env("NATS_URL", &endpoints.nats_url)
            .env("DATABASE_URL", &endpoints.database_url)
            .env("CLICKHOUSE_URL", &endpoints.clickhouse_url)
            .env("CLICKHOUSE_DATABASE", &endpoints.clickhouse_database);
        let output = command.kill_on_drop(true).output().await.unwrap();
        assert!(
            output.status.success(),
            "{args}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let id = Uuid::now_v7();
    let create = format!(
        "corrections create ada@example.com {} {} --cost-units 1 --reason outage --by eve --correction-id {id}",
        events[0], events[1]
    );
    for _ in 0..2 {
        let made = command(&create).await;
        assert_eq!(
            (&made["delta_units"], made["events"].as_array().unwrap().len()),
            (&json!(-10), 2)
        );
    }
    let made = command(&format!(
        "corrections create ada@example.com {} --void --reason outage",
        events[0]
    ))
    .await;
    assert_eq!(made["delta_units"], -1);
    assert!(!made["events"][0]["requested_by"].as_str().unwrap().is_empty());
    books.until_published().await;
    assert_eq!(
        command("corrections list --account ada@example.com").await,
        books.read("corrections").await
    );
    assert_eq!(command("audit list").await, books.read("audit").await);
    books.close(1).await;
}

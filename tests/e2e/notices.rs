//! Usage notices: an account is told of its usage once a threshold, signed, also when its endpoint or a part of ours fails.

mod receiver;

use std::path::Path;

use async_nats::ConnectOptions;
use devstack::{
    Service, ServiceOptions,
    admin::Customer,
    http::{Answer, Http, request},
    ports,
};
use futures_util::StreamExt;
use harness::{Client, Stack, StackOptions, eventually};
use http::Method;
use schema::{AccountId, names};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};

use self::receiver::Receiver;
use crate::{
    SERVICES,
    billing::worker::{output, write},
};

const QUICK: (&str, &str) = ("NOTICE_INTERVAL", "0.2");
const HTTP: (&str, &str) = ("NOTICE_ALLOW_HTTP", "true");
const PRIVATE: (&str, &str) = ("NOTICE_ALLOW_PRIVATE", "true");

/// A system whose customers have their endpoints on this machine, and one of its customers.
async fn stack() -> (Stack, Customer) {
    stack_with(&[QUICK, HTTP, PRIVATE]).await
}

async fn stack_with(settings: &[(&'static str, &str)]) -> (Stack, Customer) {
    let options = StackOptions {
        billing_env: settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    (stack, ada)
}

/// Another billing worker of the same system.
async fn another_worker(stack: &Stack, settings: &[(&str, &str)]) -> Service {
    let (admin, public) = (ports::free().unwrap(), ports::free().unwrap());
    let endpoints = &stack.endpoints;
    let dir = stack.data.path().to_owned();
    let mut options = ServiceOptions::new("billing-worker", "another-worker", dir, admin)
        .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
        .env("BILLING_LISTEN", format!("127.0.0.1:{public}"))
        .env("NATS_URL", &endpoints.nats_url)
        .env("DATABASE_URL", &endpoints.database_url)
        .env("CLICKHOUSE_URL", &endpoints.clickhouse_url)
        .env("CLICKHOUSE_DATABASE", &endpoints.clickhouse_database);
    options.exe = Some(SERVICES.into());
    for (name, value) in settings {
        options = options.env(*name, *value);
    }
    Service::start(options).await.unwrap()
}

async fn call(stack: &Stack, method: Method, path: &str, body: Value) -> Answer {
    let url = format!("{}/admin{path}", stack.billing.admin_url());
    let body = Some(&body).filter(|body| !body.is_null());
    let request = request(method, &url, &stack.admin_token, body).unwrap();
    Http::default().send(request).await.unwrap()
}

/// Calls something about the account's endpoint; it must succeed.
async fn endpoint(stack: &Stack, method: Method, account: AccountId, action: &str, body: Value) -> Value {
    let path = format!("/accounts/{account}/notice-endpoint{action}");
    call(stack, method, &path, body).await.ok().unwrap()
}

/// Sets the account's endpoint for the first time; its secret.
async fn set(stack: &Stack, account: AccountId, url: &str) -> String {
    let set = endpoint(stack, Method::PUT, account, "", json!({ "url": url })).await;
    set["secret"].as_str().unwrap().to_owned()
}

/// The account's notices, once they are as expected.
async fn notices(stack: &Stack, account: AccountId, what: &str, expected: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    eventually(what, async || {
        let path = format!("/accounts/{account}/notices");
        let listed = call(stack, Method::GET, &path, Value::Null).await.ok().unwrap();
        let items = listed["items"].as_array().unwrap().clone();
        expected(&items).then_some(items)
    })
    .await
}

async fn metric(service: &Service, name: &str) -> u64 {
    let url = format!("{}/metrics", service.admin_url());
    let text = String::from_utf8(Http::default().get(&url, "").await.unwrap().body.to_vec()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

/// Waits until a worker has compared everything once more, from the beginning.
async fn compared(service: &Service) {
    const NAME: &str = "billing_notices_comparisons_total";
    let before = metric(service, NAME).await;
    // The one that is under way may have begun before what the caller did.
    eventually("usage is compared", async || {
        (metric(service, NAME).await >= before + 2).then_some(())
    })
    .await;
}

fn log(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_threshold_is_told_once_by_two_workers_and_never_again_in_its_period() {
    let (stack, ada) = stack().await;
    let another = another_worker(&stack, &[QUICK, HTTP, PRIVATE]).await;
    let receiver = Receiver::start(&[]).await;
    let secret = set(&stack, ada.account_id, &receiver.url()).await;
    stack.admin.set_limit(ada.account_id, "api_call", 50).await.unwrap();
    let listener = ConnectOptions::with_user_and_password("notices".into(), devstack::nats::password("notices"));
    let nats = listener.connect(stack.nats.url()).await.unwrap();
    let mut published = nats.subscribe(names::NOTICES).await.unwrap();
    nats.flush().await.unwrap();
    let client = Client::new(stack.gateway(0), &ada);
    let spend = async |units: i64| client.spend("api_call", units).await.unwrap().ok().unwrap();

    for _ in 0..39 {
        spend(1).await;
    }
    stack.assert_stored(ada.account_id, 39, 39).await;
    compared(&stack.billing).await;
    assert!(receiver.received().is_empty(), "39 of 50 are not 80 %");

    spend(1).await;
    let told = receiver.nth(1).await;
    assert_eq!((told.path.as_str(), told.signatures(&secret)), ("/usage", (1, true)));
    let body = told.json();
    assert_eq!(body["type"], "usage.threshold_reached");
    let data = &body["data"];
    assert_eq!(data["account_id"], ada.account_id.to_string());
    for (field, expected) in [
        ("usage_type", json!("api_call")),
        ("threshold_percent", json!(80)),
        ("current_usage", json!(40)),
        ("limit", json!(50)),
    ] {
        assert_eq!(data[field], expected, "{field}");
    }
    let (start, end) = (
        data["period_start"].as_str().unwrap(),
        data["period_end"].as_str().unwrap(),
    );
    assert!(start < body["timestamp"].as_str().unwrap() && start < end, "{body}");

    spend(10).await;
    let told = receiver.nth(2).await;
    assert!(told.signatures(&secret).1);
    assert_eq!(told.json()["data"]["threshold_percent"], 100);
    assert_eq!(told.json()["data"]["current_usage"], 50);

    // 80 % of the new limit is not another notice of this period.
    stack.admin.set_limit(ada.account_id, "api_call", 100).await.unwrap();
    eventually("the raised limit holds", async || {
        (client.spend("api_call", 50).await.unwrap().status == 200).then_some(())
    })
    .await;
    stack.assert_stored(ada.account_id, 42, 100).await;
    for worker in [&stack.billing, &another] {
        compared(worker).await;
    }
    assert_eq!(receiver.received().len(), 2);
    let listed = notices(&stack, ada.account_id, "both are delivered", |listed| {
        listed.iter().all(|notice| notice["state"] == "delivered")
    })
    .await;
    assert_eq!(listed.len(), 2, "{listed:?}");

    for notice in receiver.received() {
        let message = published.next().await.unwrap();
        assert_eq!(message.subject.as_str(), names::notices(ada.account_id));
        assert_eq!(message.payload, notice.body.as_bytes());
        assert_eq!(
            message.headers.unwrap().get("Nats-Msg-Id").unwrap().as_str(),
            notice.id()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_a_gateway_holds_are_no_usage() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let client = Client::new(stack.gateway(0), &ada);
    client.spend("export", 79).await.unwrap().ok().unwrap();
    stack.assert_stored(ada.account_id, 1, 79).await;
    let held = "update quota_pool set granted_units = limit_units where account_id = $1";
    sqlx::query(held)
        .bind(ada.account_id.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    compared(&stack.billing).await;
    assert!(receiver.received().is_empty(), "79 of 100 are spent, 21 are held");
    // The limit that is in force now: 79 of 90 are past 80 %, and past no more than that.
    stack.admin.set_limit(ada.account_id, "export", 90).await.unwrap();
    let data = receiver.nth(1).await.json()["data"].clone();
    assert_eq!(
        (&data["threshold_percent"], &data["current_usage"], &data["limit"]),
        (&json!(80), &json!(79), &json!(90))
    );
    compared(&stack.billing).await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_billed_past_its_limit_is_told_too() {
    let catalogue = include_str!("../../schema/plans.toml").replace(
        "usage.export = { limit = 100 }",
        "usage.export = { limit = 10, mode = \"overage\", unit_price_micros = 1_000 }",
    );
    let dir = devstack::DataDir::create().unwrap();
    let plans = write(dir.path(), "plans.toml", &catalogue);
    let env = |settings: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        settings.chain([("PLANS_FILE", plans.clone())]).collect()
    };
    let options = StackOptions {
        billing_env: env(&[QUICK, HTTP, PRIVATE, ("NOTICE_THRESHOLDS", "100,150")]),
        gateway_env: env(&[]),
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    let receiver = Receiver::start(&[]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let client = Client::new(stack.gateway(0), &ada);
    for (units, percent, usage) in [(9, None, 9), (3, Some(100), 12), (4, Some(150), 16)] {
        client.spend("export", units).await.unwrap().ok().unwrap();
        if let Some(percent) = percent {
            let told = receiver.nth(if percent == 100 { 1 } else { 2 }).await.json();
            assert_eq!(
                (
                    &told["data"]["threshold_percent"],
                    &told["data"]["current_usage"],
                    &told["data"]["limit"]
                ),
                (&json!(percent), &json!(usage), &json!(10))
            );
        }
        compared(&stack.billing).await;
    }
    assert_eq!(receiver.received().len(), 2);
    stack.assert_stored(ada.account_id, 3, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_tried_again_and_a_replay_has_the_same_id() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[500, 200]).await;
    let secret = set(&stack, ada.account_id, &receiver.url()).await;
    let test = endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    assert_eq!(
        (&test["type"], &test["state"]),
        (&json!("usage.test"), &json!("pending"))
    );
    let failed = notices(&stack, ada.account_id, "the first attempt fails", |listed| {
        listed[0]["attempts"] == 1
    })
    .await;
    assert_eq!(failed[0]["state"], "pending");
    assert_eq!(
        failed[0]["last_error"],
        "answered 500 Internal Server Error: out of paper"
    );
    let delivered = notices(&stack, ada.account_id, "the second one is delivered", |listed| {
        listed[0]["state"] == "delivered"
    })
    .await;
    assert_eq!(
        (&delivered[0]["attempts"], &delivered[0]["last_error"]),
        (&json!(2), &Value::Null)
    );

    let id = test["id"].as_str().unwrap();
    let replay = format!("/notices/{id}/replay");
    assert_eq!(call(&stack, Method::POST, &replay, Value::Null).await.status, 202);
    receiver.nth(3).await;
    let received = receiver.received();
    for attempt in &received {
        assert_eq!((attempt.id(), &attempt.body), (id, &received[0].body));
        assert!(attempt.signatures(&secret).1);
    }
    assert_eq!(received.len(), 3);
    let unknown = format!("/notices/{}/replay", uuid::Uuid::new_v4());
    assert_eq!(call(&stack, Method::POST, &unknown, Value::Null).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_refused_also_behind_a_name() {
    let (stack, ada) = stack_with(&[QUICK, HTTP]).await;
    let receiver = Receiver::start(&[]).await;
    let path = format!("/accounts/{}/notice-endpoint", ada.account_id);
    let refused = call(&stack, Method::PUT, &path, json!({ "url": receiver.url() })).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.json().unwrap()["message"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1 is loopback")
    );

    set(
        &stack,
        ada.account_id,
        &receiver.url().replace("127.0.0.1", "localhost"),
    )
    .await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let failed = notices(&stack, ada.account_id, "the attempt is refused", |listed| {
        listed[0]["attempts"] == 1
    })
    .await;
    let error = failed[0]["last_error"].as_str().unwrap();
    assert!(
        error.contains("is loopback: notices go to public addresses only"),
        "{error}"
    );
    assert!(receiver.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_refused_unless_allowed_and_https_speaks_tls() {
    let (stack, ada) = stack_with(&[PRIVATE]).await;
    let path = format!("/accounts/{}/notice-endpoint", ada.account_id);
    let refused = call(&stack, Method::PUT, &path, json!({ "url": "http://example.com/" })).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.json().unwrap()["message"]
            .as_str()
            .unwrap()
            .contains("https://")
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    set(&stack, ada.account_id, &url).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let (mut connection, _) = listener.accept().await.unwrap();
    // RFC 8446, 5.1: a handshake record.
    assert_eq!(connection.read_u8().await.unwrap(), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[302]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let failed = notices(&stack, ada.account_id, "the attempt fails", |listed| {
        listed[0]["attempts"] == 1
    })
    .await;
    assert_eq!(
        failed[0]["last_error"],
        "answered 302 Found: redirects are not followed"
    );
    // The second attempt goes to the URL that was set.
    receiver.nth(2).await;
    assert!(receiver.received().iter().all(|attempt| attempt.path == "/usage"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_overlap_in_a_rotation_and_are_shown_once() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[]).await;
    let first = set(&stack, ada.account_id, &receiver.url()).await;
    let test = async || endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;

    let rotated = endpoint(&stack, Method::POST, ada.account_id, "/rotate", Value::Null).await;
    let second = rotated["secret"].as_str().unwrap();
    test().await;
    let told = receiver.nth(1).await;
    assert_eq!(
        (told.signatures(&first), told.signatures(second)),
        ((2, true), (2, true))
    );

    let rotated = endpoint(
        &stack,
        Method::POST,
        ada.account_id,
        "/rotate",
        json!({ "overlap_hours": 0 }),
    )
    .await;
    let third = rotated["secret"].as_str().unwrap();
    test().await;
    let told = receiver.nth(2).await;
    // The first one's day goes on.
    assert_eq!(
        (told.signatures(&first), told.signatures(third)),
        ((2, true), (2, true))
    );
    assert!(!told.signatures(second).1);

    let again = endpoint(
        &stack,
        Method::PUT,
        ada.account_id,
        "",
        json!({ "url": receiver.url() }),
    )
    .await;
    let shown = endpoint(&stack, Method::GET, ada.account_id, "", Value::Null).await;
    for answer in [&again, &shown] {
        assert!(!answer.to_string().contains("whsec_"), "{answer}");
        assert_eq!(answer["secrets"].as_array().unwrap().len(), 2);
    }
    let log = log(stack.data.path(), "billing-worker-1");
    assert!(log.contains("delivered a notice") && log.contains(&ada.account_id.to_string()));
    let raw = first.strip_prefix("whsec_").unwrap();
    assert!(!log.contains("whsec_") && !log.contains(raw) && !log.contains(&receiver.url()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_disabled_until_it_is_set_again() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[410]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let path = format!("/accounts/{}/notice-endpoint", ada.account_id);
    let test = endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    notices(&stack, ada.account_id, "the notice is given up", |listed| {
        listed[0]["state"] == "failed"
    })
    .await;
    let shown = endpoint(&stack, Method::GET, ada.account_id, "", Value::Null).await;
    assert_eq!(
        (&shown["state"], &shown["disabled_reason"]),
        (&json!("disabled"), &json!("it answered 410 Gone"))
    );
    let replay = format!("/notices/{}/replay", test["id"].as_str().unwrap());
    for refused in [format!("{path}/test"), replay.clone()] {
        let answer = call(&stack, Method::POST, &refused, Value::Null).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json().unwrap()["error"]),
            (409, &json!("notice_endpoint_disabled"))
        );
    }
    endpoint(
        &stack,
        Method::PUT,
        ada.account_id,
        "",
        json!({ "url": receiver.url() }),
    )
    .await;
    call(&stack, Method::POST, &replay, Value::Null).await.ok().unwrap();
    receiver.nth(2).await;

    endpoint(&stack, Method::DELETE, ada.account_id, "", Value::Null).await;
    for method in [Method::GET, Method::DELETE] {
        let answer = call(&stack, method, &path, Value::Null).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json().unwrap()["error"]),
            (404, &json!("no_notice_endpoint"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_failed_for_five_days_is_disabled_and_says_so() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[500]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let failing = "update notice_endpoints set failing_since = now() - interval '5 days' where account_id = $1";
    sqlx::query(failing)
        .bind(ada.account_id.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let failed = notices(&stack, ada.account_id, "the notice is given up", |listed| {
        listed[0]["state"] == "failed"
    })
    .await;
    assert_eq!(
        failed[0]["last_error"],
        "answered 500 Internal Server Error: out of paper"
    );
    let shown = endpoint(&stack, Method::GET, ada.account_id, "", Value::Null).await;
    assert_eq!(shown["disabled_reason"], "every attempt of the last 5 days failed");
    // What is reached meanwhile is written down, and sent when an operator says so.
    let client = Client::new(stack.gateway(0), &ada);
    client.spend("export", 80).await.unwrap().ok().unwrap();
    let listed = notices(&stack, ada.account_id, "the threshold is noticed", |listed| {
        listed.len() == 2
    })
    .await;
    assert_eq!(listed[1]["state"], "unaddressed");
    endpoint(
        &stack,
        Method::PUT,
        ada.account_id,
        "",
        json!({ "url": receiver.url() }),
    )
    .await;
    let replay = format!("/notices/{}/replay", listed[1]["id"].as_str().unwrap());
    call(&stack, Method::POST, &replay, Value::Null).await.ok().unwrap();
    assert_eq!(receiver.nth(2).await.json()["data"]["current_usage"], 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_worker_died_is_taken_over_when_its_lease_ends_and_not_before() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let lease = async |seconds: f64| {
        let lease = "update notice_endpoints
                     set lease_id = gen_random_uuid(), leased_until = now() + $1 * interval '1 second'";
        sqlx::query(lease).bind(seconds).execute(&stack.pool).await.unwrap();
    };
    lease(3_600.0).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    // Two seconds at least: a worker looks for what is due every second.
    for _ in 0..6 {
        compared(&stack.billing).await;
    }
    assert!(receiver.received().is_empty());
    lease(0.0).await;
    receiver.nth(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_not_read_and_no_answer_is_waited_for_15_s() {
    let (stack, ada) = stack().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    set(&stack, ada.account_id, &url).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let (mut endless, _) = listener.accept().await.unwrap();
    // What answers before it was asked is no server.
    let mut asked = Vec::new();
    while !asked.ends_with(b"}}") {
        assert_ne!(endless.read_buf(&mut asked).await.unwrap(), 0, "it hung up");
    }
    let head = "HTTP/1.1 500 Internal Server Error\r\n\r\n";
    endless.write_all(head.as_bytes()).await.unwrap();
    // Until the other side has closed the connection.
    while endless.write_all(&[b'a'; 4_096]).await.is_ok() {}
    let failed = notices(&stack, ada.account_id, "the first attempt fails", |listed| {
        listed[0]["attempts"] == 1
    })
    .await;
    let expected = format!("answered 500 Internal Server Error: {}", "a".repeat(200));
    assert_eq!(failed[0]["last_error"], expected);

    let _silent = listener.accept().await.unwrap();
    let failed = notices(&stack, ada.account_id, "the second attempt fails", |listed| {
        listed[0]["attempts"] == 2
    })
    .await;
    assert_eq!(failed[0]["last_error"], "no answer within 15s");
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_away_is_said_once_and_nothing_is_told() {
    let (stack, ada) = stack_with(&[("NOTICE_INTERVAL", "3600"), HTTP, PRIVATE]).await;
    let receiver = Receiver::start(&[]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    Client::new(stack.gateway(0), &ada)
        .spend("export", 100)
        .await
        .unwrap()
        .ok()
        .unwrap();
    stack.assert_stored(ada.account_id, 1, 100).await;
    let nobody = format!("http://127.0.0.1:{}", ports::free().unwrap());
    let blind = another_worker(&stack, &[QUICK, HTTP, PRIVATE, ("CLICKHOUSE_URL", &nobody)]).await;
    eventually("comparisons are skipped", async || {
        (metric(&blind, "billing_notices_comparisons_skipped_total").await >= 3).then_some(())
    })
    .await;
    let log = log(stack.data.path(), "another-worker");
    assert_eq!(
        log.matches("usage is not compared with limits until this is over")
            .count(),
        1
    );
    assert!(receiver.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_do_the_same() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[]).await;
    let account = ada.account_id.to_string();
    let run = async |args: &[&str]| {
        let mut command = Command::new(SERVICES);
        command
            .args(["service", "billing-worker", "notices", "--json"])
            .args(args)
            .env("DATABASE_URL", &stack.endpoints.database_url)
            .env(HTTP.0, HTTP.1)
            .env(PRIVATE.0, PRIVATE.1);
        let output = output(command).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains("whsec_"), "{args:?}: a secret in the log");
        let printed: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        printed.filter(|_| output.status.success()).ok_or(errors)
    };
    let set = run(&["set", &account, &receiver.url()]).await.unwrap();
    let test = run(&["test", "ada@example.com"]).await.unwrap();
    let told = receiver.nth(1).await;
    assert_eq!(told.id(), test["id"]);
    assert!(told.signatures(set["secret"].as_str().unwrap()).1);
    let rotated = run(&["rotate", &account, "--overlap-hours", "1"]).await.unwrap();
    run(&["replay", told.id()]).await.unwrap();
    let replayed = receiver.nth(2).await;
    assert_eq!(replayed.id(), told.id());
    assert_eq!(replayed.signatures(rotated["secret"].as_str().unwrap()), (2, true));
    let listed = run(&["list", &account]).await.unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(run(&["show", &account]).await.unwrap()["url"], receiver.url());
    run(&["remove", &account]).await.unwrap();
    assert!(
        run(&["show", &account])
            .await
            .unwrap_err()
            .contains("has no notice endpoint")
    );
}

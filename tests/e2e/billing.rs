//! The billing worker: what its admin API and its sub-commands change, what it announces, and what it refuses.

mod audit;
mod start;
pub mod worker;

use http::{Method, StatusCode};
use schema::{AccountId, KeyId, announcement::Announcement};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::task::JoinSet;
use uuid::Uuid;

use self::worker::{TOKEN, Worker, write};
use devstack::http::{Http, request};

/// What differs from call to call, made the same.
fn shape(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, shape(value))).collect(),
        Value::Array(values) => values.into_iter().map(shape).collect(),
        Value::String(text) if text.parse::<Uuid>().is_ok() => "an id".into(),
        Value::String(text) if OffsetDateTime::parse(&text, &Rfc3339).is_ok() => "a time".into(),
        Value::String(text) if schema::api_key::identify(&text).is_ok() => "a key".into(),
        Value::String(text) if text.contains('@') => "an address".into(),
        other => other,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn instant(value: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(text(value), &Rfc3339).unwrap()
}

#[tokio::test]
async fn commands_and_admin_api_do_the_same() {
    let worker = Worker::start().await;
    let place = &worker.place;
    let new = json!({ "name": "Ann", "email": "ann@example.com", "plan": "pro" });
    let by_api = worker.change(Method::POST, "/accounts", new).await;
    let args = "accounts create --name Ann --email bob@example.com --plan pro";
    let by_command = place.json(&args.split(' ').collect::<Vec<_>>()).await;
    let (ann, bob) = (text(&by_api["id"]).to_owned(), text(&by_command["id"]).to_owned());
    assert_eq!(shape(by_api), shape(by_command));

    let mut keys = [Value::Null, Value::Null];
    for (method, path, body, args) in [
        (
            Method::POST,
            "/accounts/ACCOUNT/keys",
            json!({ "name": "ci", "expires_in_days": 30 }),
            "keys create ACCOUNT --name ci --expires-in-days 30",
        ),
        (
            Method::POST,
            "/keys/KEY/rotate",
            json!({ "overlap_hours": 2 }),
            "keys rotate KEY --overlap-hours 2",
        ),
        (Method::DELETE, "/keys/KEY", Value::Null, "keys revoke KEY"),
        (Method::GET, "/accounts/ACCOUNT/keys", Value::Null, "keys list ACCOUNT"),
        (
            Method::PUT,
            "/accounts/ACCOUNT/limits/export",
            json!({ "limit_units": 7 }),
            "limits set ACCOUNT export 7",
        ),
        (
            Method::PUT,
            "/accounts/ACCOUNT/plan",
            json!({ "plan": "enterprise" }),
            "plans assign ACCOUNT enterprise",
        ),
        (
            Method::DELETE,
            "/accounts/ACCOUNT/limits/export",
            Value::Null,
            "limits clear ACCOUNT export",
        ),
        (
            Method::POST,
            "/accounts/ACCOUNT/suspend",
            Value::Null,
            "accounts suspend ACCOUNT",
        ),
        (Method::GET, "/accounts/ACCOUNT", Value::Null, "accounts show ACCOUNT"),
        (
            Method::POST,
            "/accounts/ACCOUNT/resume",
            Value::Null,
            "accounts resume ACCOUNT",
        ),
        (
            Method::PUT,
            "/accounts/ACCOUNT/plan",
            json!({ "plan": "free" }),
            "plans assign ACCOUNT free",
        ),
        (Method::GET, "/accounts", Value::Null, "accounts list"),
        (Method::GET, "/accounts?limit=1", Value::Null, "accounts list --limit 1"),
        (Method::GET, "/plans", Value::Null, "plans list"),
    ] {
        let fill = |text: &str, account: &str, key: &Value| {
            text.replace("ACCOUNT", account)
                .replace("KEY", key.as_str().unwrap_or_default())
        };
        let by_api = worker.change(method, &fill(path, &ann, &keys[0]), body).await;
        let args = fill(args, &bob, &keys[1]);
        let by_command = place.json(&args.split(' ').collect::<Vec<_>>()).await;
        if by_api["key"].is_string() {
            keys = [by_api["id"].clone(), by_command["id"].clone()];
        }
        assert_eq!(shape(by_api), shape(by_command), "{args}");
    }

    let log = std::fs::read_to_string(place.data.path().join("billing-worker.log")).unwrap();
    assert!(log.contains(&ann), "changes are logged with their account");
    assert!(!log.contains("tr_live_") && !log.contains(TOKEN), "a secret in the log");
}

#[tokio::test]
async fn one_email_address_makes_one_account() {
    let worker = Worker::start().await;
    let tries = (0..16).map(|n: u32| {
        let email = if n < 8 { "ann@example.com" } else { "Ann@Example.COM" };
        worker.call(Method::POST, "/accounts", json!({ "name": "Ann", "email": email }))
    });
    let mut made = 0;
    for answer in futures_util::future::join_all(tries).await {
        match answer.status {
            StatusCode::CREATED => made += 1,
            status => {
                assert_eq!(status, StatusCode::CONFLICT);
                assert_eq!(answer.json().unwrap()["error"], "email_taken");
            }
        }
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from accounts")
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!((made, stored), (1, 1));
}

#[tokio::test]
async fn every_change_is_announced_after_its_commit() {
    let worker = Worker::start().await;
    let mut announcements = worker.announcements().await;
    let account = worker.account("ann@example.com", "free").await;
    let account_id: AccountId = account.parse().unwrap();
    let account_changed = Announcement::AccountChanged { account_id };
    assert_eq!(announcements.next().await, account_changed);

    let key = worker
        .change(Method::POST, &format!("/accounts/{account}/keys"), Value::Null)
        .await;
    let key_id: KeyId = text(&key["id"]).parse().unwrap();
    let key_changed = Announcement::KeyChanged { key_id, account_id };
    assert_eq!(announcements.next().await, key_changed);
    worker
        .change(Method::DELETE, &format!("/keys/{key_id}"), Value::Null)
        .await;
    assert_eq!(announcements.next().await, key_changed);

    for (method, path, body) in [
        (Method::PUT, "plan", json!({ "plan": "pro" })),
        (Method::PUT, "limits/export", json!({ "limit_units": 7 })),
        (Method::DELETE, "limits/export", Value::Null),
        (Method::POST, "suspend", Value::Null),
    ] {
        worker
            .change(method, &format!("/accounts/{account}/{path}"), body)
            .await;
        assert_eq!(announcements.next().await, account_changed, "{path}");
    }

    // A command says what it did before it ends.
    worker.place.json(&["accounts", "resume", &account]).await;
    assert_eq!(announcements.next().await, account_changed);
}

#[tokio::test]
async fn limits_in_force_are_written_into_open_pools() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "pro").await;
    let path = |rest: &str| format!("/accounts/{account}/{rest}");
    // Two types of the running period, and one of the period before, which nothing may change any more.
    sqlx::query(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units, granted_units)
         select account_id, t, period_start - m, period_end - m, l, 3 from subscriptions,
             (values ('api_call', 10000, interval '0'), ('export', 100, interval '0'),
                     ('api_call', 10000, interval '1 month')) as pools (t, l, m)
         where account_id = $1::uuid and is_current",
    )
    .bind(&account)
    .execute(&worker.pool)
    .await
    .unwrap();

    let enterprise = write(
        worker.place.data.path(),
        "plans.toml",
        &include_str!("../../schema/plans.toml").replace("limit = 100_000", "limit = 123_456"),
    );
    let limits = async |api_call: i64, export: i64, after: &str| {
        let pools: Vec<(String, i64)> =
            sqlx::query_as("select usage_type, limit_units from quota_pool order by period_start, usage_type")
                .fetch_all(&worker.pool)
                .await
                .unwrap();
        let expected = [("api_call", 10_000), ("api_call", api_call), ("export", export)];
        assert_eq!(pools, expected.map(|(name, limit)| (name.to_owned(), limit)), "{after}");
        let shown = worker
            .change(Method::GET, &format!("/accounts/{account}"), Value::Null)
            .await;
        let shown = [&shown["limits"][0], &shown["limits"][1]];
        assert_eq!(
            shown.map(|limit| limit["limit"].as_i64().unwrap()),
            [api_call, export],
            "{after}"
        );
        assert_eq!(
            shown.map(|limit| limit["granted_units"].as_i64().unwrap()),
            [3, 3],
            "{after}"
        );
    };
    limits(10_000, 100, "the start").await;
    worker
        .change(Method::PUT, &path("plan"), json!({ "plan": "enterprise" }))
        .await;
    limits(100_000, 1_000, "another plan").await;
    worker
        .change(Method::PUT, &path("limits/export"), json!({ "limit_units": 7 }))
        .await;
    limits(100_000, 7, "an override").await;
    worker
        .change(Method::PUT, &path("plan"), json!({ "plan": "pro" }))
        .await;
    limits(10_000, 7, "another plan under an override").await;
    worker.change(Method::DELETE, &path("limits/export"), Value::Null).await;
    limits(10_000, 100, "no override").await;
    worker
        .change(Method::PUT, &path("plan"), json!({ "plan": "enterprise" }))
        .await;
    let synced = worker.place.json(&["catalogue", "sync", "--plans", &enterprise]).await;
    assert_eq!(synced["accounts_changed"], 1);
    let pool: i64 = sqlx::query_scalar("select max(limit_units) from quota_pool")
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!(pool, 123_456, "another catalogue");
}

#[tokio::test]
async fn concurrent_assignments_leave_one_current_subscription() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "free").await;
    let path = format!("/accounts/{account}/plan");
    let assignments = (0..16).map(|n| {
        let plan = ["pro", "enterprise", "free"][n % 3];
        worker.change(Method::PUT, &path, json!({ "plan": plan }))
    });
    futures_util::future::join_all(assignments).await;
    worker.change(Method::PUT, &path, json!({ "plan": "pro" })).await;
    let current: Vec<(String, String)> = sqlx::query_as("select plan_id, status from subscriptions where is_current")
        .fetch_all(&worker.pool)
        .await
        .unwrap();
    assert_eq!(current, [("pro".to_owned(), "active".to_owned())]);
    let unended: i64 =
        sqlx::query_scalar("select count(*) from subscriptions where not is_current and ends_at is null")
            .fetch_one(&worker.pool)
            .await
            .unwrap();
    assert_eq!(unended, 0, "what was replaced has an end");
}

#[tokio::test]
async fn rotated_key_goes_on_for_the_overlap_and_no_longer() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "free").await;
    let rotate = async |key: &Value, body: Value| {
        let path = format!("/keys/{}/rotate", text(&key["id"]));
        worker.call(Method::POST, &path, body).await
    };

    let path = format!("/accounts/{account}/keys");
    let old = worker.change(Method::POST, &path, json!({ "name": "ci" })).await;
    let new = rotate(&old, json!({ "overlap_hours": 2 })).await.ok().unwrap();
    assert_ne!(new["key"], old["key"]);
    assert_eq!((&new["name"], &new["expires_at"]), (&old["name"], &Value::Null));
    assert_eq!(new["replaces"]["status"], "active");
    let overlap = instant(&new["replaces"]["expires_at"]) - instant(&new["created_at"]);
    assert!(
        (overlap - Duration::hours(2)).abs() < Duration::seconds(30),
        "{overlap}"
    );

    // A longer overlap does not bring back what was about to end.
    let again = rotate(&old, json!({ "overlap_hours": 48 })).await.ok().unwrap();
    assert_eq!(again["replaces"]["expires_at"], new["replaces"]["expires_at"]);

    let at_once = rotate(&new, json!({ "overlap_hours": 0 })).await.ok().unwrap();
    assert_eq!(at_once["replaces"]["status"], "expired");
    let ended = rotate(&new, Value::Null).await;
    assert_eq!(
        (ended.status, &ended.json().unwrap()["error"]),
        (StatusCode::CONFLICT, &json!("key_ended"))
    );

    // What gateways compare with: the hash of exactly the text that was shown.
    let (_, hash) = schema::api_key::identify(text(&new["key"])).unwrap();
    let stored: Vec<u8> = sqlx::query_scalar("select secret_sha256 from api_keys where id = $1::uuid")
        .bind(text(&new["id"]))
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!(stored, hash.as_bytes());
}

#[tokio::test]
async fn lists_are_walked_in_pages_without_gap_or_repetition() {
    let worker = Worker::start().await;
    let mut made = Vec::new();
    for n in 0..7 {
        made.push(worker.account(&format!("{n}@example.com"), "free").await);
    }
    let mut keys = Vec::new();
    for _ in 0..5 {
        let key = worker
            .change(Method::POST, &format!("/accounts/{}/keys", made[0]), Value::Null)
            .await;
        keys.push(text(&key["id"]).to_owned());
    }
    for (path, expected) in [
        ("/accounts".to_owned(), &made),
        (format!("/accounts/{}/keys", made[0]), &keys),
    ] {
        let (mut walked, mut query) = (Vec::new(), "?limit=2".to_owned());
        loop {
            let page = worker.change(Method::GET, &format!("{path}{query}"), Value::Null).await;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            walked.extend(items.iter().map(|item| text(&item["id"]).to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            query = format!("?limit=2&after={next}");
        }
        assert_eq!(&walked, expected, "{path}");
    }
}

#[tokio::test]
async fn without_the_token_nothing_opens() {
    let worker = Worker::start().await;
    let http = Http::default();
    let url = format!("{}/admin/accounts", worker.service.admin_url());
    for token in ["", "wrong", &TOKEN[1..], &format!("{TOKEN}x")] {
        let new = json!({ "name": "Ann", "email": "ann@example.com" });
        let answer = http.post(&url, token, &new).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{token:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.json().unwrap()["error"], "unauthorized");
    }
    let mut twice = request(Method::GET, &url, TOKEN, None).unwrap();
    twice
        .headers_mut()
        .append("authorization", "Bearer wrong".parse().unwrap());
    assert_eq!(http.send(twice).await.unwrap().status, StatusCode::UNAUTHORIZED);
    let stored: i64 = sqlx::query_scalar("select count(*) from accounts")
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!(stored, 0);
    // What watches the service has no token.
    let health = http
        .get(&format!("{}/healthz", worker.service.admin_url()), "")
        .await
        .unwrap();
    assert_eq!(health.status, StatusCode::OK);
}

#[tokio::test]
async fn bad_input_is_refused_with_its_reason() {
    let worker = Worker::start().await;
    let ann = worker.account("ann@example.com", "free").await;
    let key = worker
        .change(Method::POST, &format!("/accounts/{ann}/keys"), Value::Null)
        .await;
    let nobody = Uuid::nil();
    let accounts = |body: &str| (Method::POST, "/accounts".to_owned(), body.to_owned());
    let of_ann = |method: Method, path: &str, body: &str| (method, format!("/accounts/{ann}/{path}"), body.to_owned());
    let get = |path: &str| (Method::GET, path.to_owned(), String::new());
    let rotate = |body: &str| {
        (
            Method::POST,
            format!("/keys/{}/rotate", text(&key["id"])),
            body.to_owned(),
        )
    };
    let long = "x".repeat(201);
    for ((method, path, body), status, error, named) in [
        (accounts(r#"{"name":"#), 400, "malformed_request", "line 1"),
        (accounts(""), 400, "malformed_request", "name"),
        (
            accounts(r#"{"name":"A","email":"a@b.co","colour":1}"#),
            400,
            "malformed_request",
            "colour",
        ),
        (
            accounts(r#"{"name":"A","email":"a@b.co","email":"c@d.eu"}"#),
            400,
            "malformed_request",
            "email",
        ),
        (
            accounts(r#"{"name":1,"email":"a@b.co"}"#),
            400,
            "malformed_request",
            "string",
        ),
        (accounts(r#"{"name":"","email":"a@b.co"}"#), 422, "bad_value", "name"),
        (
            accounts(&format!(r#"{{"name":"{long}","email":"a@b.co"}}"#)),
            422,
            "bad_value",
            "200",
        ),
        (accounts(r#"{"name":"A","email":"a@b"}"#), 422, "bad_email", "a@b"),
        (
            accounts(r#"{"name":"A","email":"a\u0000@b.co"}"#),
            422,
            "bad_email",
            "address",
        ),
        (
            accounts(r#"{"name":"A","email":"a@b.co","plan":"gold"}"#),
            422,
            "unknown_plan",
            "free, pro, enterprise",
        ),
        (
            accounts(r#"{"name":"A","email":"ANN@example.com"}"#),
            409,
            "email_taken",
            "ANN@example.com",
        ),
        (accounts(&" ".repeat(256 * 1024 + 1)), 413, "body_too_large", "262144"),
        (get("/accounts?limit=0"), 422, "bad_value", "limit"),
        (get("/accounts?limit=1001"), 422, "bad_value", "1000"),
        (get("/accounts?after=x"), 400, "malformed_request", "after"),
        (get("/accounts?colour=1"), 400, "malformed_request", "colour"),
        (get("/accounts/x"), 404, "unknown_account", "x"),
        (get("/accounts/%ff"), 400, "malformed_request", "UTF-8"),
        (get(&format!("/accounts/{nobody}")), 404, "unknown_account", "0000"),
        (get(&format!("/accounts/{nobody}/keys")), 404, "unknown_account", "0000"),
        (get("/nothing"), 404, "unknown_path", "nothing"),
        (
            (Method::DELETE, "/accounts".to_owned(), String::new()),
            405,
            "unknown_method",
            "method",
        ),
        (
            of_ann(Method::PUT, "plan", r#"{"plan":"gold"}"#),
            422,
            "unknown_plan",
            "free, pro, enterprise",
        ),
        (of_ann(Method::PUT, "plan", "{}"), 400, "malformed_request", "plan"),
        (
            of_ann(Method::PUT, "limits/calls", r#"{"limit_units":1}"#),
            422,
            "unknown_usage_type",
            "api_call, export",
        ),
        (
            of_ann(Method::DELETE, "limits/calls", ""),
            422,
            "unknown_usage_type",
            "api_call, export",
        ),
        (
            of_ann(Method::PUT, "limits/export", r#"{"limit_units":-1}"#),
            422,
            "bad_value",
            "limit_units",
        ),
        (
            of_ann(Method::PUT, "limits/export", r#"{"limit_units":1e18}"#),
            400,
            "malformed_request",
            "i64",
        ),
        (
            of_ann(Method::PUT, "limits/export", r#"{"limit_units":9999999999999999}"#),
            422,
            "bad_value",
            "limit_units",
        ),
        (
            of_ann(Method::POST, "keys", r#"{"name":"a\nb"}"#),
            422,
            "bad_value",
            "name",
        ),
        (
            of_ann(Method::POST, "keys", r#"{"expires_in_days":0}"#),
            422,
            "bad_value",
            "expires_in_days",
        ),
        (
            of_ann(Method::POST, "keys", r#"{"expires_in_days":-1}"#),
            400,
            "malformed_request",
            "u32",
        ),
        (
            (Method::POST, format!("/accounts/{nobody}/keys"), String::new()),
            404,
            "unknown_account",
            "0000",
        ),
        (
            (
                Method::PUT,
                format!("/accounts/{nobody}/plan"),
                r#"{"plan":"pro"}"#.into(),
            ),
            404,
            "unknown_account",
            "0000",
        ),
        (
            (Method::POST, format!("/accounts/{nobody}/suspend"), String::new()),
            404,
            "unknown_account",
            "0000",
        ),
        (rotate(r#"{"overlap_hours":8761}"#), 422, "bad_value", "overlap_hours"),
        (rotate(r#"{"overlap":1}"#), 400, "malformed_request", "overlap"),
        (
            (Method::DELETE, "/keys/x".to_owned(), String::new()),
            404,
            "unknown_key",
            "x",
        ),
        (
            (Method::DELETE, format!("/keys/{nobody}"), String::new()),
            404,
            "unknown_key",
            "0000",
        ),
    ] {
        let url = format!("{}/admin{path}", worker.service.admin_url());
        let what = format!("{method} {path} {:.80}", body);
        let request = request(method, &url, TOKEN, None).unwrap().map(|_| body.into());
        let answer = Http::default().send(request).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{what}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{what}"
        );
        let problem = answer.json().unwrap();
        assert_eq!(
            (&problem["error"], &problem["status"]),
            (&json!(error), &json!(status)),
            "{what}"
        );
        assert!(text(&problem["message"]).contains(named), "{what}: {problem}");
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from accounts")
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn price_list_is_public() {
    let worker = Worker::start().await;
    let http = Http::default();
    let list = http
        .get(&format!("{}/billing/plans", worker.public_url), "")
        .await
        .unwrap()
        .ok()
        .unwrap();
    let plans: Vec<_> = list["plans"].as_array().unwrap().iter().collect();
    let ids: Vec<_> = plans.iter().map(|plan| text(&plan["id"])).collect();
    assert_eq!(ids, ["free", "pro", "enterprise"]);
    assert_eq!(plans[1]["price_cents"], 2_900);
    assert_eq!(plans[1]["retention_days"], 365);
    assert_eq!(plans[1]["features"][1], "Advanced analytics");
    assert_eq!(
        plans[1]["limits"][0],
        json!({ "usage_type": "api_call", "mode": "limited", "limit": 10_000, "unit_price_micros": null })
    );
    for path in ["/", "/billing/nothing", "/admin/accounts", "/metrics"] {
        let answer = http.get(&format!("{}{path}", worker.public_url), TOKEN).await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.json().unwrap()["error"], "unknown_path", "{path}");
    }
}

#[tokio::test]
async fn nats_being_away_fails_no_change() {
    let mut worker = Worker::start().await;
    worker.place.nats.kill().await.unwrap();
    let account = worker.account("ann@example.com", "pro").await;
    let details = worker.place.json(&["accounts", "suspend", &account]).await;
    assert_eq!(details["status"], "suspended");
    // A worker that starts now serves, too.
    worker.service.restart().await.unwrap();
    let details = worker
        .change(Method::POST, &format!("/accounts/{account}/resume"), Value::Null)
        .await;
    assert_eq!(details["status"], "active");

    // And announces when NATS is back, without being told.
    worker.place.nats.restart().await.unwrap();
    let mut announcements = worker.announcements().await;
    let mut changes = JoinSet::new();
    let (url, http) = (
        format!("{}/admin/accounts/{account}", worker.service.admin_url()),
        Http::default(),
    );
    changes.spawn(async move {
        for action in ["suspend", "resume"].iter().cycle() {
            http.post(&format!("{url}/{action}"), TOKEN, &json!({})).await.unwrap();
        }
    });
    let account_id: AccountId = account.parse().unwrap();
    assert_eq!(announcements.next().await, Announcement::AccountChanged { account_id });
}

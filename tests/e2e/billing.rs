//! The billing worker: changes by its admin API and its sub-commands, announcements, and refusals.

mod audit;
mod bad_input;
mod changes;
mod parts;
mod scopes;
mod start;
pub(crate) mod worker;

use devstack::http::Http;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use self::worker::{TOKEN, Worker};

/// Replaces the values that differ between calls.
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
    let servers = &worker.servers;
    let new = json!({ "name": "Ann", "email": "ann@example.com", "plan": "pro" });
    let by_api = worker.change(Method::POST, "/accounts", new).await;
    let args = "accounts create --name Ann --email bob@example.com --plan pro";
    let by_command = servers.json(&args.split(' ').collect::<Vec<_>>()).await;
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
            "/accounts/ACCOUNT/keys",
            json!({ "name": "page", "scopes": ["usage", "billing"] }),
            "keys create ACCOUNT --name page --scope usage --scope billing",
        ),
        (
            Method::POST,
            "/keys/KEY/scopes",
            json!({ "remove": ["usage"] }),
            "keys scope KEY --remove usage",
        ),
        (
            Method::POST,
            "/keys/KEY/scopes",
            json!({ "add": ["usage"], "remove": ["billing"] }),
            "keys scope KEY --add usage --remove billing",
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
        let by_command = servers.json(&args.split(' ').collect::<Vec<_>>()).await;
        if by_api["key"].is_string() {
            keys = [by_api["id"].clone(), by_command["id"].clone()];
        }
        assert_eq!(shape(by_api), shape(by_command), "{args}");
    }

    let log = std::fs::read_to_string(servers.data.path().join("billing-worker.log")).unwrap();
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
async fn a_rotated_key_works_until_the_end_of_the_overlap() {
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

    // A longer overlap does not extend the life of an old key that already has an end.
    let again = rotate(&old, json!({ "overlap_hours": 48 })).await.ok().unwrap();
    assert_eq!(again["replaces"]["expires_at"], new["replaces"]["expires_at"]);

    let at_once = rotate(&new, json!({ "overlap_hours": 0 })).await.ok().unwrap();
    assert_eq!(at_once["replaces"]["status"], "expired");
    let ended = rotate(&new, Value::Null).await;
    assert_eq!(
        (ended.status, &ended.json().unwrap()["error"]),
        (StatusCode::CONFLICT, &json!("key_ended"))
    );

    // Gateways compare hashes: the stored hash is the hash of exactly the text that was shown.
    let (_, hash) = schema::api_key::identify(text(&new["key"])).unwrap();
    let stored: Vec<u8> = sqlx::query_scalar("select secret_sha256 from api_keys where id = $1::uuid")
        .bind(text(&new["id"]))
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!(stored, hash.as_bytes());
}

#[tokio::test]
async fn pages_of_a_list_have_no_gap_and_no_repetition() {
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
    let features = [
        "Priority email support",
        "Advanced analytics",
        "api_call: 10,000 a month",
        "export: 100 a month",
        "sentiment_analysis: 2,000 a month",
        "usage data kept for 365 days",
    ];
    assert_eq!(plans[1]["features"], json!(features));
    assert_eq!(
        plans[1]["limits"][0],
        json!({ "usage_type": "api_call", "mode": "limited", "limit": 10_000, "unit_price_micros": null, "unit_prices": {} })
    );
    for path in ["/", "/billing/nothing", "/admin/accounts", "/metrics"] {
        let answer = http.get(&format!("{}{path}", worker.public_url), TOKEN).await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.json().unwrap()["error"], "unknown_route", "{path}");
    }
}

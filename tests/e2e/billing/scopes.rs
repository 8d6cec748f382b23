//! Scopes of keys: the migration, who may change them, and what the commands refuse.

use devstack::{
    Service,
    http::{Http, request},
};
use http::{Method, StatusCode};
use schema::api_key::ApiKey;
use serde_json::{Value, json};
use sqlx::{PgPool, migrate::Migrator};
use uuid::Uuid;

use super::{
    text,
    worker::{Worker, WorkerServers},
};

/// The migration that adds scopes.
const SCOPES: i64 = 62;

/// Creates a key with the statement of the release before scopes.
async fn insert_as_before(pool: &PgPool, account: Uuid) -> ApiKey {
    let key = ApiKey::generate();
    sqlx::query(
        "insert into api_keys (id, account_id, secret_sha256, name, expires_at) values ($1, $2, $3, 'old', null)",
    )
    .bind(key.id().0)
    .bind(account)
    .bind(key.hash().as_bytes().as_slice())
    .execute(pool)
    .await
    .unwrap();
    key
}

/// The error of a change in the billing API.
async fn error_of_a_change(public_url: &str, key: &str) -> String {
    let url = format!("{public_url}/billing/cancel");
    let answer = Http::default().post(&url, key, &json!({})).await.unwrap();
    text(&answer.json().unwrap()["error"]).to_owned()
}

#[tokio::test]
async fn existing_keys_keep_what_they_can() {
    let servers = WorkerServers::new().await;
    let pool = PgPool::connect(&servers.database_url).await.unwrap();
    let all = sqlx::migrate!("../schema/postgres");
    let before = all.iter().filter(|migration| migration.version < SCOPES).cloned();
    Migrator::with_migrations(before.collect()).run(&pool).await.unwrap();
    let account = Uuid::now_v7();
    sqlx::query("insert into accounts (id, name, email) values ($1, 'Ann', 'ann@example.com')")
        .bind(account)
        .execute(&pool)
        .await
        .unwrap();
    let existing = insert_as_before(&pool, account).await;
    let revoked = insert_as_before(&pool, account).await;
    sqlx::query("update api_keys set revoked_at = now() where id = $1")
        .bind(revoked.id().0)
        .execute(&pool)
        .await
        .unwrap();

    // A worker of this release migrates the database when it starts.
    let (options, public_url) = servers.worker("billing-worker");
    let _service = Service::start(options).await.unwrap();
    // The previous release still works, and its new keys are only for calls.
    let later = insert_as_before(&pool, account).await;
    type Read = (
        Uuid,
        Uuid,
        Vec<u8>,
        Option<time::OffsetDateTime>,
        Option<time::OffsetDateTime>,
    );
    let read: Vec<Read> =
        sqlx::query_as("select id, account_id, secret_sha256, expires_at, revoked_at from api_keys where id = any($1)")
            .bind(vec![existing.id().0, later.id().0])
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(read.len(), 2);

    let listed = servers.json(&["keys", "list", "ann@example.com"]).await;
    let scopes_of = |key: &ApiKey| {
        let keys = listed["items"].as_array().unwrap();
        let shown = keys.iter().find(|shown| text(&shown["id"]) == key.id().to_string());
        shown.unwrap()["scopes"].clone()
    };
    assert_eq!(scopes_of(&existing), json!(["usage", "billing"]));
    assert_eq!(scopes_of(&revoked), json!(["usage", "billing"]));
    assert_eq!(scopes_of(&later), json!(["usage"]));
    // Without Stripe no change succeeds, but the key is not the reason.
    let error = error_of_a_change(&public_url, existing.reveal()).await;
    assert!(
        ["stripe_not_configured", "not_subscribed"].contains(&error.as_str()),
        "{error}"
    );
    assert_eq!(
        error_of_a_change(&public_url, revoked.reveal()).await,
        "invalid_api_key"
    );
    assert_eq!(error_of_a_change(&public_url, later.reveal()).await, "scope_missing");

    for refused in ["{}", "{usage,admin}", "{NULL}"] {
        let changed = sqlx::query("update api_keys set scopes = $1::text::text[]")
            .bind(refused)
            .execute(&pool)
            .await;
        let error = changed.unwrap_err().to_string();
        assert!(error.contains("api_keys_scopes"), "{refused}: {error}");
    }
}

#[tokio::test]
async fn a_key_cannot_widen_itself() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "free").await;
    let keys = format!("/accounts/{account}/keys");
    let created = worker.change(Method::POST, &keys, Value::Null).await;
    let (id, key) = (text(&created["id"]), text(&created["key"]));
    assert_eq!(created["scopes"], json!(["usage"]), "a new key is for calls");

    let (admin, public) = (worker.service.admin_url(), &worker.public_url);
    let all = json!({ "scopes": ["usage", "billing"] });
    for (method, path, body) in [
        (Method::POST, keys.clone(), all.clone()),
        (
            Method::POST,
            format!("/keys/{id}/scopes"),
            json!({ "add": ["billing"] }),
        ),
        (Method::POST, format!("/keys/{id}/rotate"), all.clone()),
        (Method::POST, format!("/keys/{id}/rotate"), json!({})),
        (Method::PUT, format!("/keys/{id}"), all.clone()),
        (Method::DELETE, format!("/keys/{id}"), Value::Null),
    ] {
        for (url, expected) in [
            (format!("{admin}/admin{path}"), (401, "unauthorized")),
            (format!("{public}/admin{path}"), (404, "unknown_route")),
            (format!("{public}/billing{path}"), (404, "unknown_route")),
        ] {
            let request = request(method.clone(), &url, key, Some(&body)).unwrap();
            let answer = Http::default().send(request).await.unwrap();
            let problem = answer.json().unwrap();
            assert_eq!(
                (answer.status.as_u16(), text(&problem["error"])),
                expected,
                "{method} {url}"
            );
        }
    }
    assert_eq!(error_of_a_change(public, key).await, "scope_missing");

    // A rotation does not widen the key, either.
    let rotated = worker
        .change(Method::POST, &format!("/keys/{id}/rotate"), Value::Null)
        .await;
    assert_eq!(rotated["scopes"], json!(["usage"]));
    let listed = worker.change(Method::GET, &keys, Value::Null).await;
    let shown = listed["items"].as_array().unwrap().iter().map(|key| &key["scopes"]);
    assert_eq!(shown.collect::<Vec<_>>(), [&json!(["usage"]); 2]);
}

#[tokio::test]
async fn a_rotated_key_keeps_its_scopes_and_an_ended_key_gets_none() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "free").await;
    for scopes in [json!(["billing"]), json!(["usage", "billing"])] {
        let keys = format!("/accounts/{account}/keys");
        let old = worker.change(Method::POST, &keys, json!({ "scopes": scopes })).await;
        let rotate = format!("/keys/{}/rotate", text(&old["id"]));
        let new = worker
            .change(Method::POST, &rotate, json!({ "overlap_hours": 0 }))
            .await;
        assert_eq!((&new["scopes"], &new["replaces"]["scopes"]), (&scopes, &scopes));
        assert_ne!(
            error_of_a_change(&worker.public_url, text(&new["key"])).await,
            "scope_missing"
        );

        let ended = format!("/keys/{}/scopes", text(&old["id"]));
        let refused = worker.call(Method::POST, &ended, json!({ "add": ["usage"] })).await;
        assert_eq!(refused.status, StatusCode::CONFLICT);
        assert_eq!(refused.json().unwrap()["error"], "key_ended");
    }
}

#[tokio::test]
async fn commands_refuse_scopes_that_do_not_fit() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "free").await;
    let created = worker.servers.json(&["keys", "create", &account]).await;
    let id = text(&created["id"]);
    let nobody = Uuid::nil().to_string();
    for (args, code, named) in [
        (
            vec!["keys", "create", &account, "--scope", "admin"],
            2,
            "the scopes are: usage, billing",
        ),
        (vec!["keys", "create", &account, "--scope", ""], 2, "--scope"),
        (vec!["keys", "create", &account, "--scope"], 2, "--scope"),
        (
            vec!["keys", "scope", id, "--add", "admin"],
            2,
            "the scopes are: usage, billing",
        ),
        (vec!["keys", "scope", "x", "--add", "billing"], 2, "x"),
        (vec!["keys", "scope", id], 1, "`add` or `remove`"),
        (vec!["keys", "scope", id, "--remove", "usage"], 1, "revoke it"),
        (
            vec!["keys", "scope", id, "--add", "billing", "--remove", "billing"],
            1,
            "both name the scope `billing`",
        ),
        (vec!["keys", "scope", &nobody, "--add", "billing"], 1, "not found"),
    ] {
        let output = worker.servers.command(&args).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        assert!(errors.contains(named), "{args:?}: {errors}");
    }
    let listed = worker.servers.json(&["keys", "list", &account]).await;
    let keys = listed["items"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["scopes"], json!(["usage"]));
    let printed = worker.servers.command(&["keys", "list", &account]).await;
    let printed = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.contains("scopes") && printed.contains(" usage "), "{printed}");
}

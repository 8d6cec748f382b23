//! The effects of a change: announcements, open pools, one current subscription.

use devstack::http::Http;
use http::Method;
use schema::{AccountId, KeyId, announcement::Announcement};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    text,
    worker::{TOKEN, Worker, write},
};

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
    let add = json!({ "add": ["billing"] });
    worker
        .change(Method::POST, &format!("/keys/{key_id}/scopes"), add)
        .await;
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

    // A command announces its change before it ends.
    worker.servers.json(&["accounts", "resume", &account]).await;
    assert_eq!(announcements.next().await, account_changed);
}

#[tokio::test]
async fn limits_in_force_are_written_into_open_pools() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "pro").await;
    let path = |rest: &str| format!("/accounts/{account}/{rest}");
    // Two usage types of the current period, one of the previous period, which no change raises, and one of the next period, which a
    // gateway has opened whose clock is ahead.
    sqlx::query(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units, granted_units)
         select account_id, t, period_start - m, period_end - m, l, 3 from subscriptions,
             (values ('api_call', 10000, interval '0'), ('export', 100, interval '0'),
                     ('api_call', 10000, interval '1 month'), ('api_call', 10000, interval '-1 month')) as pools (t, l, m)
         where account_id = $1::uuid and is_current",
    )
    .bind(&account)
    .execute(&worker.pool)
    .await
    .unwrap();

    let enterprise = write(
        worker.servers.data.path(),
        "plans.toml",
        &include_str!("../../../schema/plans.toml").replace("limit = 100_000", "limit = 123_456"),
    );
    let limits = async |api_call: i64, export: i64, after: &str| {
        let pools: Vec<(String, i64)> =
            sqlx::query_as("select usage_type, limit_units from quota_pool order by period_start, usage_type")
                .fetch_all(&worker.pool)
                .await
                .unwrap();
        let expected = [
            ("api_call", 10_000),
            ("api_call", api_call),
            ("export", export),
            ("api_call", api_call),
        ];
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
    let synced = worker
        .servers
        .json(&["catalogue", "sync", "--plans", &enterprise])
        .await;
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
    assert_eq!(unended, 0, "the replaced subscription has an end");
}

#[tokio::test]
async fn changes_succeed_while_nats_is_unavailable() {
    let mut worker = Worker::start().await;
    worker.servers.nats.kill().await.unwrap();
    let account = worker.account("ann@example.com", "pro").await;
    let details = worker.servers.json(&["accounts", "suspend", &account]).await;
    assert_eq!(details["status"], "suspended");
    // A worker that starts during the outage serves, too.
    worker.service.restart().await.unwrap();
    let details = worker
        .change(Method::POST, &format!("/accounts/{account}/resume"), Value::Null)
        .await;
    assert_eq!(details["status"], "active");

    // It announces changes on its own once NATS is back.
    worker.servers.nats.restart().await.unwrap();
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

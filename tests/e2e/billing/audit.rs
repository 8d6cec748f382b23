//! The audit log has one entry per administrative change, with its author and without secrets, and no entry without a change.

use devstack::http::{Http, request};
use http::Method;
use serde_json::{Value, json};

use super::worker::{TOKEN, Worker};

#[tokio::test]
async fn every_change_is_in_the_audit_log_once_and_requests_without_a_change_are_not() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "pro").await;
    let of_account = |rest: &str| format!("/accounts/{account}/{rest}");
    let key = worker
        .change(Method::POST, &of_account("keys"), json!({ "name": "ci" }))
        .await;
    let key = key["id"].as_str().unwrap();
    let rotated = worker
        .change(Method::POST, &format!("/keys/{key}/rotate"), Value::Null)
        .await;
    for _ in 0..2 {
        let add = json!({ "add": ["billing"] });
        worker.change(Method::POST, &format!("/keys/{key}/scopes"), add).await;
    }
    for _ in 0..2 {
        for (method, path, body) in [
            (Method::PUT, of_account("plan"), json!({ "plan": "enterprise" })),
            (Method::POST, of_account("suspend"), Value::Null),
            (Method::DELETE, format!("/keys/{key}"), Value::Null),
        ] {
            worker.change(method, &path, body).await;
        }
    }
    worker.servers.json(&["accounts", "resume", &account]).await;
    worker.servers.json(&["limits", "set", &account, "export", "7"]).await;
    for _ in 0..2 {
        worker.servers.json(&["limits", "clear", &account, "export"]).await;
        worker.servers.json(&["catalogue", "sync"]).await;
        worker
            .change(
                Method::PUT,
                &of_account("notice-endpoint"),
                json!({ "url": "https://example.com/usage?token=hunter2" }),
            )
            .await;
    }
    for path in ["notice-endpoint/rotate", "notice-endpoint/test"] {
        worker.change(Method::POST, &of_account(path), Value::Null).await;
    }
    worker
        .change(Method::DELETE, &of_account("notice-endpoint"), Value::Null)
        .await;

    let list = worker.change(Method::GET, "/audit", Value::Null).await;
    let entries = list["items"].as_array().unwrap();
    let actions: Vec<_> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        [
            "catalogue.sync",
            "account.create",
            "plan.assign",
            "key.create",
            "key.rotate",
            "key.scope",
            "plan.assign",
            "account.suspend",
            "key.revoke",
            "account.resume",
            "limit.set",
            "limit.clear",
            "notice_endpoint.set",
            "notice_secret.rotate",
            "notice.test",
            "notice_endpoint.remove",
        ]
    );
    let entry = |action: &str| entries.iter().rfind(|entry| entry["action"] == action).unwrap();
    assert_eq!(
        (
            &entry("catalogue.sync")["actor"],
            &entry("catalogue.sync")["account_id"]
        ),
        (&json!("service"), &Value::Null)
    );
    assert_eq!(entry("account.suspend")["actor"], "admin api");
    assert_eq!(entry("account.resume")["actor"], "command");
    assert!(entry("account.resume")["actor_name"].is_string());
    assert_eq!(entry("plan.assign")["details"], json!({ "before": "pro" }));
    assert_eq!(entry("limit.set")["details"], json!({ "limit_units": 7 }));
    assert_eq!(
        entry("notice_endpoint.set")["details"],
        json!({ "host": "example.com" })
    );
    assert_eq!(entry("key.create")["details"]["scopes"], json!(["usage"]));
    assert_eq!(
        entry("key.scope")["details"],
        json!({ "before": ["usage"], "after": ["usage", "billing"] })
    );
    assert_eq!(entry("key.rotate")["details"]["replaces"], json!(key));
    let text = list.to_string();
    assert!(!text.contains("hunter2") && !text.contains("whsec_"));
    assert!(!text.contains("tr_live_") && !text.contains(rotated["key"].as_str().unwrap()));

    // The entries of one account, in pages.
    let page = worker
        .change(Method::GET, &format!("/audit?account={account}&limit=9"), Value::Null)
        .await;
    let rest = format!("/audit?account={account}&after={}", page["next"].as_str().unwrap());
    let rest = worker.change(Method::GET, &rest, Value::Null).await;
    assert_eq!(
        (
            page["items"].as_array().unwrap().len(),
            rest["items"].as_array().unwrap().len()
        ),
        (9, 6)
    );
    let refused = worker.call(Method::GET, "/audit?account=ann", Value::Null).await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn the_requester_may_give_a_name_and_a_failed_change_leaves_no_entry() {
    let worker = Worker::start().await;
    let account = worker.account("ann@example.com", "free").await;
    let url = |path: &str| format!("{}/admin{path}", worker.service.admin_url());
    let named = async |name: &str, path: &str, body: &Value| {
        let mut request = request(Method::POST, &url(path), TOKEN, Some(body)).unwrap();
        request.headers_mut().insert("x-requested-by", name.parse().unwrap());
        Http::default().send(request).await.unwrap().status.as_u16()
    };
    assert_eq!(
        named("eve", &format!("/accounts/{account}/suspend"), &json!({})).await,
        200
    );
    assert_eq!(
        named(
            "eve",
            "/accounts",
            &json!({ "name": "Ann", "email": "ann@example.com" })
        )
        .await,
        409
    );
    assert_eq!(named("", &format!("/accounts/{account}/resume"), &json!({})).await, 400);
    let names: Vec<(String, Option<String>)> =
        sqlx::query_as("select action, actor_name from audit_log where account_id is not null order by id")
            .fetch_all(&worker.pool)
            .await
            .unwrap();
    assert_eq!(
        names,
        [
            ("account.create".to_owned(), None),
            ("account.suspend".to_owned(), Some("eve".to_owned()))
        ]
    );
}

//! The gateway's own API, for services and proxies that call it directly.

use devstack::http::{Http, request};
use harness::{Stack, StackOptions};
use http::Method;
use serde_json::json;

use crate::SERVICES;

#[tokio::test(flavor = "multi_thread")]
async fn authorize_charges_when_it_admits_and_names_the_account() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let customer = stack.admin.customer("ada", "free").await.unwrap();
    let (http, authorize) = (Http::default(), format!("{}/v1/authorize", stack.gateway(0)));
    let ask = async |path: &str, headers: &[(&'static str, &str)]| {
        let mut request = request(Method::GET, &format!("{authorize}{path}"), &customer.key, None).unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        http.send(request).await.unwrap()
    };
    let nginx = [
        ("x-original-method", "POST"),
        ("x-original-uri", "/api/export/posts/csv?all"),
    ];
    let traefik = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", "/api/export/posts/csv"),
    ];
    for (path, headers) in [("", &nginx[..]), ("", &traefik[..]), ("/api/export/posts/csv", &[])] {
        let answer = ask(path, headers).await;
        assert_eq!(answer.status, 200, "{headers:?}");
        assert_eq!(
            answer.header("x-trendit-account"),
            Some(customer.account_id.to_string().as_str())
        );
        assert!(answer.header("ratelimit").unwrap().starts_with("\"export\";r="));
    }
    // The plan has 5: two more, then none.
    let statuses = [ask("", &nginx).await, ask("", &nginx).await, ask("", &nginx).await].map(|answer| answer.status);
    assert_eq!(statuses.map(|status| status.as_u16()), [200, 200, 429]);
    stack.assert_stored(customer.account_id, 5, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_spends_nothing() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let customer = stack.admin.customer("ada", "free").await.unwrap();
    let http = Http::default();
    let check = async |cost_units: i64| {
        let body = json!({ "usage_type": "export", "cost_units": cost_units });
        let url = format!("{}/v1/check", stack.gateway(0));
        http.post(&url, &customer.key, &body).await.unwrap().ok().unwrap()
    };
    for _ in 0..10 {
        let expected = json!({ "allowed": true, "current_usage": 0, "limit": 5, "remaining": 5 });
        assert_eq!(check(5).await, expected);
        assert_eq!(check(6).await["allowed"], false);
    }
    let usage = json!({ "usage_type": "export", "cost_units": 5 });
    let url = format!("{}/v1/usage", stack.gateway(0));
    assert_eq!(http.post(&url, &customer.key, &usage).await.unwrap().status, 200);
    assert_eq!(check(1).await["allowed"], false);
    stack.assert_stored(customer.account_id, 1, 5).await;
}

/// A failed request is stored without units. With the same event id as its retry, it would make the retry a duplicate, and the
/// units of the retry would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_succeeds_after_a_failure_is_counted() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let customer = stack.admin.customer("ada", "free").await.unwrap();
    let url = format!("{}/api/posts/search", stack.gateway(0));
    let send = async |status: &str| {
        let mut request = request(Method::GET, &url, &customer.key, None).unwrap();
        request
            .headers_mut()
            .insert("idempotency-key", "order-17".parse().unwrap());
        request.headers_mut().insert("x-demo-status", status.parse().unwrap());
        Http::default().send(request).await.unwrap()
    };
    assert_eq!(send("500").await.status, 500);
    let (answer, again) = (send("200").await, send("200").await);
    assert_eq!(answer.header("usage-event-id"), again.header("usage-event-id"));
    stack.assert_stored(customer.account_id, 2, 1).await;
}

//! Limits are exact to the unit, and clients get correct information about them.

use harness::{Client, Stack, StackOptions, concurrently, count, eventually};
use serde_json::json;

use crate::SERVICES;

#[tokio::test(flavor = "multi_thread")]
async fn call_101_of_a_free_month_is_refused_with_the_reason() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let ada = stack.admin.customer("ada", "free").await.unwrap();
    let client = Client::new(stack.gateway(0), &ada);
    for n in 1..=100 {
        let answer = client.get("/api/posts/search?q=rust").await.unwrap();
        assert_eq!(answer.status, 200, "call {n}");
        assert!(answer.header("ratelimit").is_some() && answer.header("ratelimit-policy").is_some());
    }
    let refused = client.get("/api/posts/search?q=rust").await.unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let until_the_month_ends: i64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31 * 86_400).contains(&until_the_month_ends));
    let problem = refused.json().unwrap();
    assert_eq!(problem["error"], "rate_limit_exceeded");
    assert_eq!(
        (&problem["current_usage"], &problem["limit"]),
        (&json!(100), &json!(100))
    );
    assert!(
        problem["upgrade_url"].is_string() && problem["message"].is_string(),
        "{problem}"
    );
    stack.assert_stored(ada.account_id, 100, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_texts_that_exceeds_the_limit_is_refused_as_a_whole() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let ada = stack.admin.customer("ada", "free").await.unwrap();
    let client = Client::new(stack.gateway(0), &ada);
    let analyze = async |texts: usize| {
        let body = json!({ "texts": vec!["text"; texts] });
        client
            .post("/api/sentiment/analyze-batch", &body)
            .await
            .unwrap()
            .status
            .as_u16()
    };
    // The plan includes 50.
    assert_eq!(analyze(48).await, 200);
    assert_eq!(analyze(3).await, 429);
    assert_eq!(analyze(2).await, 200);
    assert_eq!(analyze(1).await, 429);
    stack.assert_stored(ada.account_id, 2, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_exact_with_64_clients_on_2_gateways() {
    const LIMIT: i64 = 1_000;
    let stack = Stack::start(
        SERVICES,
        StackOptions {
            gateways: 2,
            ..StackOptions::default()
        },
    )
    .await
    .unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    stack.admin.set_limit(ada.account_id, "api_call", LIMIT).await.unwrap();
    let clients = [Client::new(stack.gateway(0), &ada), Client::new(stack.gateway(1), &ada)];
    // Continue until both gateways refuse: one may still hold units when the other has none. A machine that is too slow for 256
    // requests at once answers some with 503, which counts nothing.
    let mut admitted = 0;
    let mut rounds = 0;
    loop {
        let answers = concurrently((0..256).map(|n| clients[n % 2].spend("api_call", 1))).await;
        let (accepted, refused) = (count(&answers, 200), count(&answers, 429));
        assert_eq!(accepted + refused + count(&answers, 503), 256, "{answers:?}");
        admitted += accepted;
        if refused == 256 {
            break;
        }
        rounds += 1;
        assert!(rounds < 100, "{admitted} were admitted: {answers:?}");
    }
    assert_eq!(admitted as i64, LIMIT);
    stack.assert_stored(ada.account_id, LIMIT as u64, LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_upstream_is_stored_and_not_charged() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let ada = stack.admin.customer("ada", "free").await.unwrap();
    let http = devstack::http::Http::default();
    let url = format!("{}/api/posts/search", stack.gateway(0));
    for _ in 0..150 {
        let mut request = devstack::http::request(http::Method::GET, &url, &ada.key, None).unwrap();
        request
            .headers_mut()
            .insert("x-demo-status", http::HeaderValue::from_static("500"));
        assert_eq!(
            http.send(request).await.unwrap().status,
            500,
            "failures count against the limit of 100"
        );
    }
    stack.assert_stored(ada.account_id, 150, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_period_begins_with_all_its_units() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    stack.admin.set_limit(ada.account_id, "api_call", 3).await.unwrap();
    // The period ends in a few seconds; the key is not cached yet.
    let moved =
        "update subscriptions set period_start = now() - interval '27 days', period_end = now() + interval '4 seconds',
                 billing_anchor = now() + interval '4 seconds' - interval '1 month' where account_id = $1";
    assert_eq!(
        sqlx::query(moved)
            .bind(ada.account_id.0)
            .execute(&stack.pool)
            .await
            .unwrap()
            .rows_affected(),
        1
    );
    let client = Client::new(stack.gateway(0), &ada);
    for _ in 0..3 {
        assert_eq!(client.spend("api_call", 1).await.unwrap().status, 200);
    }
    assert_eq!(client.spend("api_call", 1).await.unwrap().status, 429);
    eventually("the next period begins", async || {
        (client.spend("api_call", 3).await.unwrap().status == 200).then_some(())
    })
    .await;
    assert_eq!(client.spend("api_call", 1).await.unwrap().status, 429);
    stack.assert_stored(ada.account_id, 4, 6).await;
    let per_period: Vec<i64> = stack
        .clickhouse
        .query("select sum(cost_units) from usage_events group by period_start order by period_start")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(per_period, [3, 3], "each event belongs to the period that admitted it");
}

//! The burst limit: requests that come too fast are refused before anything is spent, and the quota stays exact.

use std::time::Instant;

use anyhow::Result;
use devstack::http::{Http, HttpResponse};
use harness::{Client, Stack, StackOptions, concurrently, count};
use serde_json::json;

use crate::SERVICES;

/// Pro: ten requests at once and two per second for each key. The other plans have no burst limit.
async fn stack() -> Result<(Stack, catalogue::Plans)> {
    let plans = catalogue::Plans::with_burst("pro", "{ per_second = 2, size = 10 }")?;
    let env = vec![("PLANS_FILE", plans.path())];
    let options = StackOptions {
        gateway_env: env.clone(),
        billing_env: env,
        ..StackOptions::default()
    };
    Ok((Stack::start(SERVICES, options).await?, plans))
}

mod catalogue {
    use anyhow::Result;

    /// A plan catalogue for this test. Dropping it removes the file.
    pub(super) struct Plans(std::path::PathBuf);

    impl Plans {
        pub(super) fn with_burst(plan: &str, burst: &str) -> Result<Self> {
            let built_in = include_str!("../../schema/plans.toml");
            let id = format!("id = \"{plan}\"\n");
            let path = std::env::temp_dir().join(format!("burst-{:016x}.toml", rand::random::<u64>()));
            std::fs::write(&path, built_in.replacen(&id, &format!("{id}burst = {burst}\n"), 1))?;
            Ok(Self(path))
        }

        pub(super) fn path(&self) -> String {
            self.0.display().to_string()
        }
    }

    impl Drop for Plans {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }
}

fn is_burst(answer: &HttpResponse) -> bool {
    answer.status == 429 && answer.json().is_ok_and(|body| body["error"] == "burst_limit_exceeded")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_too_fast_are_refused_and_spend_nothing() {
    let (stack, _plans) = stack().await.unwrap();
    let customer = stack.admin.customer("ada", "pro").await.unwrap();
    let client = Client::new(stack.gateway(0), &customer);
    // The plan has units for all requests, so only the burst limit refuses.
    let began = Instant::now();
    let answers = concurrently((0..100).map(|_| client.spend("api_call", 1))).await;
    let refilled = began.elapsed().as_secs() as usize * 2 + 2;
    let accepted = count(&answers, 200);
    assert!(
        (10..=10 + refilled).contains(&accepted),
        "{accepted} in {:?}",
        began.elapsed()
    );
    let refused: Vec<_> = answers.iter().flatten().filter(|answer| is_burst(answer)).collect();
    assert_eq!(accepted + refused.len(), 100, "{answers:?}");
    for answer in refused {
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"burst\";q=10;w=5"));
        assert_eq!(answer.header("ratelimit"), Some("\"burst\";r=0;t=5"));
    }
    let served = answers.iter().flatten().find(|answer| answer.status == 200).unwrap();
    let policies: Vec<_> = served.headers.get_all("ratelimit-policy").iter().collect();
    assert!(
        policies[0].to_str().unwrap().starts_with("\"api_call\";q=10000;w="),
        "{policies:?}"
    );
    assert_eq!(policies[1], "\"burst\";q=10;w=5");

    // Another key of the account, and an account without a burst limit, are not slowed down.
    let (_, key) = stack.admin.key(customer.account_id).await.unwrap();
    let http = Http::default();
    let url = format!("{}/v1/usage", stack.gateway(0));
    let body = json!({ "usage_type": "api_call", "cost_units": 1 });
    let others: Vec<_> = concurrently((0..10).map(|_| http.post(&url, &key, &body))).await;
    assert_eq!(count(&others, 200), 10);
    let free = stack.admin.customer("bob", "free").await.unwrap();
    let free_client = Client::new(stack.gateway(0), &free);
    let fast = concurrently((0..150).map(|_| free_client.spend("api_call", 1))).await;
    assert_eq!(count(&fast, 200), 100, "only the monthly limit refuses");

    // Requests that the burst limit refused were never counted, neither in the quota nor in the stream.
    let units = accepted as i64 + 10;
    stack.assert_stored(customer.account_id, units as u64, units).await;
    let used = harness::eventually("the burst limit admits a request again", async || {
        let answer = http.get(&url, &key).await.ok()?;
        (answer.status == 200).then(|| answer.json().unwrap()["usage"][0]["current_usage"].clone())
    })
    .await;
    assert_eq!(used, json!(units));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_counts_as_one_request_and_a_refused_request_never_reaches_the_upstream() {
    let (stack, _plans) = stack().await.unwrap();
    let customer = stack.admin.customer("ada", "pro").await.unwrap();
    let client = Client::new(stack.gateway(0), &customer);
    let batch = json!({ "events": vec![json!({ "usage_type": "api_call" }); 50] });
    let answer = client.post("/v1/usage/batch", &batch).await.unwrap();
    assert_eq!(answer.status, 200);
    let answers = concurrently((0..30).map(|_| client.get("/api/posts/search"))).await;
    let served = count(&answers, 200);
    let refused = answers.iter().flatten().filter(|answer| is_burst(answer));
    assert_eq!(served + refused.count(), 30);
    assert!((9..30).contains(&served), "{served}");
    let units = 50 + served as i64;
    stack.assert_stored(customer.account_id, units as u64, units).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_plan_changes_the_burst_limit_at_once() {
    let (stack, _plans) = stack().await.unwrap();
    let customer = stack.admin.customer("ada", "enterprise").await.unwrap();
    let client = Client::new(stack.gateway(0), &customer);
    let fast = concurrently((0..50).map(|_| client.spend("api_call", 1))).await;
    assert_eq!(count(&fast, 200), 50);
    stack.admin.assign(customer.account_id, "pro").await.unwrap();
    let refused = harness::eventually("the new plan applies", async || {
        let answers = concurrently((0..30).map(|_| client.spend("api_call", 1))).await;
        answers.into_iter().flatten().find(is_burst)
    })
    .await;
    assert_eq!(refused.header("ratelimit-policy"), Some("\"burst\";q=10;w=5"));
}

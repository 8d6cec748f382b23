//! A cap is in force when every gateway knows it, and everything that was admitted before is counted.

use std::sync::Arc;

use axum::{Router, http::StatusCode, routing::any};
use devstack::upstream::Upstream;
use futures_util::future::join_all;
use harness::{StackOptions, eventually};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Rig, on_pro, on_pro_with};

impl Rig {
    async fn is_in_force(&self) -> bool {
        self.get("spend-cap").await["in_force_since"].is_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_in_progress_count_before_the_cap_is_in_force() {
    const CALLS: usize = 10;
    let (arrived, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let slow = {
        let (arrived, release) = (Arc::clone(&arrived), Arc::clone(&release));
        async move || {
            arrived.add_permits(1);
            release.acquire().await.unwrap().forget();
            StatusCode::OK
        }
    };
    let upstream = Upstream::serve(Router::new().fallback(any(slow))).await.unwrap();
    let rig = on_pro_with(StackOptions {
        gateways: 2,
        upstream_url: Some(upstream.url().to_owned()),
        ..StackOptions::default()
    })
    .await;
    assert_eq!(rig.decide(0, "api_call", 1_000).await.0, 200);
    let client = rig.client(0);
    let calls = join_all((0..CALLS).map(|_| client.get("/api/posts/search")));
    let capping = async {
        arrived.acquire_many(CALLS as u32).await.unwrap().forget();
        // The calls cost 15 cents, which nobody has counted yet.
        let set = rig.put_cap(json!(15)).await.ok().unwrap();
        assert_eq!((&set["used_cents"], &set["in_force_since"]), (&json!(0), &Value::Null));
        release.add_permits(CALLS);
    };
    let (answers, ()) = tokio::join!(calls, capping);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().status == 200));
    rig.until_in_force().await;
    rig.assert_refused("api_call", 1, 15, 15).await;
    rig.until_stored("api_call", 1_010).await;
    assert_eq!(rig.get("spend-cap").await["used_cents"], 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_is_not_in_force_while_a_gateway_does_not_know_it() {
    let mut rig = on_pro(2).await;
    assert_eq!(rig.decide(1, "export", 1).await.0, 200);
    rig.stack.gateways[1].service.pause().unwrap();
    let set = rig.put_cap(json!(100)).await.ok().unwrap();
    assert_eq!((&set["cents"], &set["in_force_since"]), (&json!(100), &Value::Null));
    // It is limited where it is known.
    eventually("the other gateway refuses", async || {
        let (status, _) = rig.spend(0, "export", 3).await;
        (status == 429).then_some(())
    })
    .await;
    assert!(!rig.is_in_force().await);
    rig.stack.gateways[1].service.resume().unwrap();
    rig.until_in_force().await;
    let used = rig.get("spend-cap").await["used_cents"].as_i64().unwrap();
    rig.assert_refused("export", 3, used, 100).await;
}

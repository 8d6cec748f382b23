//! A spend cap: the most that an account wants to pay for usage in a period, on several gateways.

mod armed;
mod changes;
mod euros;
mod room;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering::SeqCst},
};

use devstack::http::HttpResponse;
use harness::{Client, StackOptions, eventually};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::rig::{AGE_S, PLANS, Rig};

/// Pro, with nothing used.
async fn on_pro(gateways: usize) -> Rig {
    on_pro_with(StackOptions {
        gateways,
        ..StackOptions::default()
    })
    .await
}

async fn on_pro_with(options: StackOptions) -> Rig {
    let options = StackOptions {
        // Everybody can buy each plan.
        catalogue: Some(PLANS.replace("listed = false\n", "")),
        ..options
    };
    let rig = Rig::start("free", options).await;
    rig.subscribe("pro").await;
    rig.stripe().advance_by(AGE_S);
    rig
}

/// What these units cost on Pro: 1.5 cents for each call past 1,000, and 33.3333 cents for each export.
fn cents(calls: i64, exports: i64) -> i64 {
    let half_up = |micros: i64| (micros + 5_000) / 10_000;
    half_up((calls - 1_000).max(0) * 15_000) + half_up(exports * 333_333)
}

impl Rig {
    async fn put_cap(&self, cents: Value) -> HttpResponse {
        let url = format!("{}/billing/spend-cap", self.stack.billing_url);
        let body = json!({ "cents": cents });
        self.http.put(&url, &self.ada.key, &body).await.unwrap()
    }

    /// Sets a cap, and waits until it is in force.
    async fn cap(&self, cents: i64) {
        let set = self.put_cap(json!(cents)).await.ok().unwrap();
        assert_eq!(set["cents"], cents);
        self.until_in_force().await;
    }

    async fn until_in_force(&self) {
        eventually("the cap is in force", async || {
            let cap = self.get("spend-cap").await;
            cap["in_force_since"].is_string().then_some(())
        })
        .await;
    }

    async fn remove_cap(&self) {
        let url = format!("{}/billing/spend-cap", self.stack.billing_url);
        let removed = self.http.delete(&url, &self.ada.key).await.unwrap().ok().unwrap();
        assert_eq!(
            (&removed["cents"], &removed["in_force_since"]),
            (&Value::Null, &Value::Null)
        );
    }

    /// Spends units. A slow machine answers 503, which counts nothing.
    async fn decide(&self, gateway: usize, usage_type: &str, units: i64) -> (u16, Value) {
        eventually("the gateway decides", async || {
            let (status, body) = self.spend(gateway, usage_type, units).await;
            (status != 503).then_some((status, body))
        })
        .await
    }

    /// No gateway admits the units. A gateway remembers its last refusal for a second, and the numbers of it.
    async fn assert_refused(&self, usage_type: &str, units: i64, used_cents: i64, cap_cents: i64) {
        for gateway in 0..self.stack.gateways.len() {
            eventually("the refusal has the current numbers", async || {
                let (status, problem) = self.decide(gateway, usage_type, units).await;
                let error = (status, problem["error"].as_str());
                assert_eq!(error, (429, Some("spend_cap_reached")), "{problem}");
                (problem["used_cents"] == used_cents && problem["cap_cents"] == cap_cents).then_some(())
            })
            .await;
        }
    }

    /// Spends units at a gateway as soon as it admits them.
    async fn until_admitted(&self, gateway: usize, usage_type: &str, units: i64) {
        eventually("the gateway admits the call", async || {
            let (status, _) = self.spend(gateway, usage_type, units).await;
            (status == 200).then_some(())
        })
        .await;
    }

    async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.stack.pool).await.unwrap()
    }
}

/// Spends calls and exports without a pause until the gateway refuses both. Returns how many it accepted. `cost`: of a call.
async fn load(client: Client, cost: Arc<AtomicI64>) -> (i64, i64) {
    let (mut calls, mut exports) = (0, 0);
    let mut refused = [false; 2];
    while refused != [true; 2] {
        for (number, usage_type) in ["api_call", "export"].into_iter().enumerate() {
            let units = if usage_type == "export" { 1 } else { cost.load(SeqCst) };
            let answer = client.spend(usage_type, units).await.unwrap();
            match (answer.status.as_u16(), usage_type) {
                (200, "export") => exports += 1,
                (200, _) => calls += units,
                (429, _) => refused[number] = true,
                (503, _) => {}
                _ => panic!("{answer:?}"),
            }
        }
    }
    (calls, exports)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_admitted_past_an_armed_spend_cap_on_four_gateways() {
    const CAP: i64 = 200_000;
    let rig = on_pro(4).await;
    // Small at first, so that the cap is not reached before it is armed.
    let cost = Arc::new(AtomicI64::new(1));
    let mut loads = JoinSet::new();
    for n in 0..8 {
        loads.spawn(load(rig.client(n % 4), Arc::clone(&cost)));
    }
    eventually("calls and exports are admitted without a cap", async || {
        let used = rig.get("usage").await["usage_cents"].as_i64()?;
        (used > 0).then_some(())
    })
    .await;
    rig.cap(CAP).await;
    cost.store(350, SeqCst);
    let (mut calls, mut exports) = (0, 0);
    while let Some(accepted) = loads.join_next().await {
        let (more_calls, more_exports) = accepted.unwrap();
        (calls, exports) = (calls + more_calls, exports + more_exports);
    }
    assert!(cents(calls, exports) <= CAP, "{calls} calls, {exports} exports");
    // The rest, unit by unit, at all gateways in turn.
    for gateway in (0..4).cycle() {
        let left = (CAP - cents(calls, exports)) / 2;
        let units = left.max(1);
        match rig.decide(gateway, "api_call", units).await {
            (200, _) => calls += units,
            (429, _) if units == 1 => break,
            (429, problem) => panic!("{problem}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        cents(calls, exports) <= CAP && cents(calls + 1, exports) > CAP,
        "{calls} calls, {exports} exports"
    );
    rig.assert_refused("api_call", 1, cents(calls, exports), CAP).await;
    rig.assert_refused("export", 1, cents(calls, exports), CAP).await;
    rig.until_stored("api_call", calls).await;
    rig.until_stored("export", exports).await;
    let usage = rig.get("usage").await;
    assert_eq!(usage["usage_cents"], cents(calls, exports));
    assert_eq!(
        (&usage["spend_cap"]["cents"], &usage["spend_cap"]["used_cents"]),
        (&json!(CAP), &json!(cents(calls, exports)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_was_spent_and_when_it_ends() {
    let rig = on_pro(1).await;
    rig.cap(100).await;
    assert_eq!(rig.decide(0, "export", 3).await.0, 200);
    let refused = rig.client(0).spend("export", 1).await.unwrap();
    assert_eq!(refused.status.as_u16(), 429);
    let wait: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(wait > 3_600, "{wait}");
    let problem = refused.json().unwrap();
    let period_end = rig.get("usage").await["period_end"].clone();
    let shown = ["error", "usage_type", "cap_cents", "used_cents", "resets_at"].map(|member| problem[member].clone());
    assert_eq!(
        shown,
        [
            json!("spend_cap_reached"),
            json!("export"),
            json!(100),
            json!(100),
            period_end
        ]
    );
    // What is included goes on.
    assert_eq!(rig.decide(0, "api_call", 1_000).await.0, 200);
    rig.assert_refused("api_call", 1, 100, 100).await;
    let check = json!({ "usage_type": "api_call" });
    let checked = rig.client(0).post("/v1/check", &check).await.unwrap().ok().unwrap();
    assert_eq!(checked["allowed"], false);
    let batch = json!({ "events": [{ "usage_type": "api_call" }, { "usage_type": "sentiment_analysis" }] });
    let batch = rig
        .client(0)
        .post("/v1/usage/batch", &batch)
        .await
        .unwrap()
        .json()
        .unwrap();
    let results = &batch["results"];
    assert_eq!(results[0]["error"], "spend_cap_reached", "{batch}");
    assert_eq!(results[0]["cap_cents"], 100);
    assert_eq!(results[1]["status"], 200, "{batch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_without_a_cap_take_no_lease_for_overage() {
    let rig = on_pro(2).await;
    let leases = async || rig.count("select count(*) from quota_leases").await;
    let pools = async || rig.count("select count(*) from quota_pool").await;
    for gateway in 0..2 {
        assert_eq!(rig.decide(gateway, "api_call", 600).await.0, 200);
        assert_eq!(rig.decide(gateway, "export", 1).await.0, 200);
    }
    assert_eq!((leases().await, pools().await), (0, 0));
    rig.cap(100_000).await;
    for gateway in 0..2 {
        assert_eq!(rig.decide(gateway, "api_call", 1).await.0, 200);
    }
    assert_eq!(pools().await, 2, "calls and exports");
    let with_cap = leases().await;
    assert!(with_cap >= 2, "{with_cap}");
    // After its end there is none either.
    rig.remove_cap().await;
    eventually("the gateways take no leases", async || {
        let before = leases().await;
        for gateway in 0..2 {
            // More than a lease has.
            assert_eq!(rig.decide(gateway, "api_call", 900_000).await.0, 200);
        }
        (leases().await == before).then_some(())
    })
    .await;
}

//! What counts towards a cap, and what makes room under it.

use devstack::http::request;
use harness::eventually;
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Rig, on_pro};

impl Rig {
    /// Spends units. Returns the id of the event.
    async fn event(&self, usage_type: &str, units: i64) -> String {
        let (status, answer) = self.decide(0, usage_type, units).await;
        assert_eq!(status, 200, "{answer}");
        answer["event_id"].as_str().unwrap().to_owned()
    }

    /// Lowers an event, as soon as it is stored.
    async fn correct(&self, event: &str, units: i64) {
        let url = format!("{}/admin/corrections", self.stack.billing.admin_url());
        let body = json!({
            "correction_id": Uuid::now_v7(), "account_id": self.ada.account_id, "reason": "an outage of ours", "by": "eve",
            "events": [{ "event_id": event, "cost_units": units }],
        });
        eventually("the correction is accepted", async || {
            let corrected = self.http.post(&url, &self.stack.admin_token, &body).await.unwrap();
            assert!(
                [200, 201, 404, 503].contains(&corrected.status.as_u16()),
                "{corrected:?}"
            );
            corrected.status.is_success().then_some(())
        })
        .await;
    }

    /// The running period ends in a moment, and another one follows. Returns when it ends.
    async fn end_period_soon(&self) -> String {
        let end: String = sqlx::query_scalar(
            "with s as (
                 update subscriptions set period_end = date_trunc('second', now()) + interval '4 seconds',
                     billing_anchor = date_trunc('second', now()) + interval '4 seconds', updated_at = now()
                 where is_current and account_id = $1 returning account_id, period_start, period_end),
             p as (
                 update billing_periods p set period_end = s.period_end from s
                 where p.account_id = s.account_id and p.period_start = s.period_start)
             select to_char(period_end at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from s",
        )
        .bind(self.ada.account_id.0)
        .fetch_one(&self.stack.pool)
        .await
        .unwrap();
        // Announces the account.
        self.stack
            .admin
            .set_limit(self.ada.account_id, "sentiment_analysis", 7)
            .await
            .unwrap();
        end
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_counts_what_was_spent_before_an_upgrade() {
    let rig = on_pro(2).await;
    assert_eq!(rig.decide(0, "api_call", 1_100).await.0, 200);
    rig.until_stored("api_call", 1_100).await;
    rig.cap(500).await;
    assert_eq!(rig.decide(1, "api_call", 100).await.0, 200);
    assert_eq!(rig.decide(0, "export", 3).await.0, 200);
    rig.post("upgrade", json!({ "tier": "acme" })).await.ok().unwrap();
    rig.until_on("acme").await;
    eventually("the segments cost $4.00", async || {
        let cap = rig.get("spend-cap").await;
        (cap["used_cents"] == 400 && cap["usage_types"] == json!(["api_call"])).then_some(())
    })
    .await;
    // The larger plan includes 900,000 calls, and each further one is a cent.
    assert_eq!(rig.decide(0, "api_call", 900_050).await.0, 200);
    assert_eq!(rig.decide(1, "api_call", 50).await.0, 200);
    rig.assert_refused("api_call", 1, 500, 500).await;
    // Exports have a limit now, which is no matter of the cap.
    assert_eq!(rig.decide(1, "export", 100).await.0, 200);
    let (status, problem) = rig.decide(1, "export", 1).await;
    assert_eq!((status, &problem["error"]), (429, &json!("rate_limit_exceeded")));
    eventually("all is stored", async || {
        let usage = rig.get("usage").await;
        (usage["usage_cents"] == 500 && usage["spend_cap"]["used_cents"] == 500).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_gives_room_under_the_cap() {
    let rig = on_pro(1).await;
    let before = rig.event("api_call", 1_100).await;
    rig.until_stored("api_call", 1_100).await;
    rig.cap(300).await;
    let after = rig.event("api_call", 100).await;
    rig.assert_refused("api_call", 1, 300, 300).await;
    // Of usage with a lease, and of usage from before the cap.
    for (event, units) in [(&after, 40), (&before, 1_020)] {
        let taken_back = if event == &after { 60 } else { 80 };
        rig.correct(event, units).await;
        rig.until_admitted(0, "api_call", taken_back).await;
        rig.assert_refused("api_call", 1, 300, 300).await;
    }
    eventually("the corrections and the calls are stored", async || {
        let cap = rig.get("spend-cap").await;
        (cap["used_cents"] == 300).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_duplicate_gives_room_under_the_cap() {
    let rig = on_pro(2).await;
    rig.cap(100).await;
    // Both gateways count it, and the ingestor drops one of them.
    for gateway in 0..2 {
        let url = format!("{}/v1/usage", rig.stack.gateway(gateway));
        let body = json!({ "usage_type": "export", "cost_units": 1 });
        let mut call = request(Method::POST, &url, &rig.ada.key, Some(&body)).unwrap();
        call.headers_mut().insert("idempotency-key", "same".parse().unwrap());
        rig.http.send(call).await.unwrap().ok().unwrap();
    }
    rig.until_admitted(0, "export", 2).await;
    rig.assert_refused("export", 1, 100, 100).await;
    rig.until_stored("export", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_resets_with_the_period() {
    let rig = on_pro(2).await;
    rig.cap(100).await;
    assert_eq!(rig.decide(0, "export", 3).await.0, 200);
    rig.assert_refused("export", 1, 100, 100).await;
    let end = rig.end_period_soon().await;
    for gateway in 0..2 {
        eventually("the next period has begun", async || {
            let usage = rig.client(gateway).get("/v1/usage").await.ok()?.ok().ok()?;
            (usage["period_start"] == Value::String(end.clone())).then_some(())
        })
        .await;
    }
    assert_eq!(rig.decide(1, "export", 3).await.0, 200);
    rig.assert_refused("export", 1, 100, 100).await;
    let cap = rig.get("spend-cap").await;
    assert!(cap["in_force_since"].is_string());
    assert_eq!(cap["cents"], 100);
}

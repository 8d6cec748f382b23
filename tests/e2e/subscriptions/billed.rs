//! Usage that Stripe counts late, or that is stored late, and the invoices that wait for it.

use billing_worker::webhook::worker;
use devstack::http::HttpResponse;
use harness::PATIENCE;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};
use uuid::Uuid;

use super::rig::{Rig, Subscriber};

/// 140 exports on Pro an hour after the subscription began: 40 more than are included, at 5 cents.
async fn with_exports() -> (Rig, Subscriber) {
    let rig = Rig::billing_usage().await;
    let ada = rig.subscribed("ada", "pro").await;
    rig.turn_by(3_600);
    rig.use_units(&ada, "export", 140).await;
    (rig, ada)
}

/// The totals of the invoices.
fn totals(rig: &Rig, who: &Subscriber) -> Vec<i64> {
    let invoices = rig.control().invoices(&rig.customers(who)[0]);
    invoices
        .iter()
        .map(|invoice| invoice["total"].as_i64().unwrap())
        .collect()
}

async fn cancel_now(rig: &Rig, who: &Subscriber) -> HttpResponse {
    rig.post(who, "cancel", json!({ "when": "now" })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_now_waits_until_stripe_has_counted_what_was_reported() {
    let (rig, ada) = with_exports().await;
    rig.control().set_metering_lag_s(600);
    let before = rig.state(&ada).await.unwrap();
    let refused = cancel_now(&rig, &ada).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json().unwrap()["error"]),
        (503, &json!("usage_not_reported"))
    );
    assert_eq!(refused.header("retry-after"), Some("30"));
    assert_eq!(rig.state(&ada).await.unwrap(), before);
    assert_eq!(totals(&rig, &ada), [2_900]);
    rig.turn_by(601);
    cancel_now(&rig, &ada).await.ok().unwrap();
    assert_eq!(totals(&rig, &ada), [2_900, 200]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_now_asks_stripe_what_it_counted_as_a_change() {
    let (rig, ada) = with_exports().await;
    cancel_now(&rig, &ada).await.ok().unwrap();
    let requests = rig.control().requests();
    let calls = |path: &str| requests.iter().filter(|request| request.path.ends_with(path)).count();
    assert!(calls("/event_summaries") > 0);
    // Only meter events wait in the class of reports.
    let mut registry = Registry::default();
    rig.metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let name = "billing_stripe_queue_wait_seconds_count{class=\"report\"} ";
    let reports = text.lines().find_map(|line| line.strip_prefix(name));
    assert_eq!(reports, Some(calls("/meter_events").to_string().as_str()));
    rig.assert_valid();
}

/// Events about invoices: state, seconds until the next attempt, error.
async fn invoice_events(rig: &Rig) -> Vec<(String, f64, Option<String>)> {
    let events = "select state, extract(epoch from next_attempt_at - now())::float8, error from webhook_events
                  where type = 'invoice.created' and error is not null";
    sqlx::query_as(events).fetch_all(&rig.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_invoice_is_retried_every_minute_until_its_usage_is_stored() {
    let (rig, ada) = with_exports().await;
    let period = rig.period(&ada).await;
    // A gateway that may have acknowledged something, and no NATS that could tell.
    sqlx::query("insert into gateway_runs (id, gateway, generation, shards) values ($1, 'unknown', 1, 8)")
        .bind(Uuid::now_v7())
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.turn_to(period.end + 60);
    rig.control().settle_webhooks(PATIENCE).await.unwrap();
    // Later than other failures are parked.
    for attempts in [0, 40] {
        sqlx::query("update webhook_events set attempts = $1, next_attempt_at = now() where state = 'received'")
            .bind(attempts)
            .execute(&rig.pool)
            .await
            .unwrap();
        worker::step(&rig.billing, &rig.metrics).await.unwrap();
        let events = invoice_events(&rig).await;
        let [(state, again_s, Some(why))] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(state, "received");
        assert!(*again_s <= 60.0, "{again_s}");
        assert!(why.contains("acknowledged usage"), "{why}");
    }
    sqlx::query("delete from gateway_runs")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.work().await;
    rig.turn_by(2 * 3_600);
    rig.settle().await;
    assert_eq!(totals(&rig, &ada), [2_900, 2_900 + 200]);
    assert_eq!(rig.subscription(&ada).await["status"], Value::from("active"));
    rig.assert_valid();
}

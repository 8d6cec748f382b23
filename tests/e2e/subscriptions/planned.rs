//! A planned change stays planned until another change replaces it.

use billing_worker::reports;
use devstack::{
    StripeDoubleOptions,
    stripe_double::{Card, FaultKind, FaultRule},
};
use harness::eventually;
use schema::Catalogue;
use serde_json::{Value, json};

use super::rig::{Rig, Subscriber};

/// A catalogue with a plan between Pro and Enterprise.
pub(super) fn with_team() -> Catalogue {
    let team = "[[plan]]
id = \"team\"
name = \"Team\"
prices = { month = 9900 }
features = []
usage.api_call = { limit = 50_000 }
usage.export = { limit = 500 }
usage.sentiment_analysis = { limit = 9_000 }

[[plan]]
id = \"enterprise\"";
    let text = include_str!("../../../schema/plans.toml").replace("[[plan]]\nid = \"enterprise\"", team);
    Catalogue::parse(&text).unwrap()
}

/// A Team subscription, its account and its id.
pub(super) async fn team() -> (Rig, Subscriber, String) {
    let rig = Rig::with(StripeDoubleOptions::default(), with_team()).await;
    rig.listen();
    let ada = rig.subscribed("ada", "team").await;
    let customer = rig.customers(&ada).remove(0);
    (rig, ada, customer)
}

/// The plan, whether it is due to end, and the plan that is next.
pub(super) async fn planned(rig: &Rig, who: &Subscriber) -> (String, bool, Option<String>) {
    let subscription = rig.subscription(who).await;
    let text = |field: &str| subscription[field].as_str().map(str::to_owned);
    (
        text("tier").unwrap(),
        !subscription["ends_at"].is_null(),
        text("then_tier"),
    )
}

pub(super) fn is(plan: &str, ends: bool, then: Option<&str>) -> (String, bool, Option<String>) {
    (plan.to_owned(), ends, then.map(str::to_owned))
}

async fn upgrade(rig: &Rig, who: &Subscriber) -> (u16, Value) {
    let answer = rig.post(who, "upgrade", json!({ "tier": "enterprise" })).await;
    (answer.status.as_u16(), answer.json().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_upgrade_keeps_the_planned_change() {
    for (path, body, then) in [
        ("cancel", json!({}), None),
        ("upgrade", json!({ "tier": "pro" }), Some("pro")),
    ] {
        let (rig, ada, customer) = team().await;
        rig.post(&ada, path, body).await.ok().unwrap();
        assert_eq!(planned(&rig, &ada).await, is("team", true, then));
        rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
        let (status, problem) = upgrade(&rig, &ada).await;
        assert_eq!(
            (status, &problem["error"]),
            (402, &json!("payment_failed")),
            "{problem}"
        );
        // Immediately, and after every event.
        assert_eq!(planned(&rig, &ada).await, is("team", true, then), "{path}");
        rig.settle().await;
        assert_eq!(planned(&rig, &ada).await, is("team", true, then), "{path}");

        rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
        assert_eq!(upgrade(&rig, &ada).await.0, 200);
        assert_eq!(planned(&rig, &ada).await, is("enterprise", false, None), "{path}");
        rig.settle().await;
        assert_eq!(planned(&rig, &ada).await, is("enterprise", false, None), "{path}");
        rig.assert_valid();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_confirmed_later_leaves_a_cancellation_that_can_be_undone() {
    let (rig, ada, customer) = team().await;
    rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
    rig.control().set_card(&customer, Some(Card::NeedsAction)).unwrap();
    let (status, problem) = upgrade(&rig, &ada).await;
    assert_eq!((status, &problem["error"]), (402, &json!("payment_action_required")));
    assert!(
        problem["message"].as_str().unwrap().contains("/billing/resume"),
        "{problem}"
    );
    rig.settle().await;
    let invoice = problem["invoice_id"].as_str().unwrap();
    rig.control().confirm_payment(invoice, true).unwrap();
    rig.settle().await;
    assert_eq!(planned(&rig, &ada).await, is("enterprise", true, None));
    rig.post(&ada, "resume", json!({})).await.ok().unwrap();
    assert_eq!(planned(&rig, &ada).await, is("enterprise", false, None));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_fails_in_stripe_keeps_the_planned_change() {
    let (rig, ada, _) = team().await;
    // A smaller plan would replace a cancellation.
    rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
    let fails = FaultRule::new(FaultKind::ServerError).method("POST").times(1);
    rig.control()
        .add_fault(fails.clone().path("/v1/subscription_schedules"));
    let failed = rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await;
    assert_eq!(failed.status.as_u16(), 503);
    assert_eq!(planned(&rig, &ada).await, is("team", true, None));

    // A larger plan would replace a smaller one.
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    assert_eq!(planned(&rig, &ada).await, is("team", true, Some("pro")));
    rig.control().add_fault(fails.path("/v1/subscriptions/"));
    assert_eq!(upgrade(&rig, &ada).await.0, 503);
    assert_eq!(planned(&rig, &ada).await, is("team", true, Some("pro")));
    rig.end_period(&ada).await;
    assert_eq!(planned(&rig, &ada).await, is("pro", false, None));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_with_a_lost_response_replaces_the_planned_change() {
    let (rig, ada, _) = team().await;
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    let lost = FaultRule::new(FaultKind::ServerError).after().method("POST");
    rig.control().add_fault(lost.path("/v1/subscriptions/").times(1));
    assert_eq!(upgrade(&rig, &ada).await.0, 200);
    assert_eq!(planned(&rig, &ada).await, is("enterprise", false, None));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_lost_response_the_planned_change_stays_or_the_new_one_is_made() {
    let lost = |path: &str| FaultRule::new(FaultKind::ServerError).after().path(path).times(1);
    for path in [
        "/v1/subscription_schedules",
        "/v1/subscription_schedules/",
        "/v1/subscriptions/",
    ] {
        for (body, done) in [
            (json!({ "tier": "enterprise" }), is("enterprise", false, None)),
            (json!({ "tier": "pro" }), is("team", true, Some("pro"))),
        ] {
            let what = format!("{path}, {body}");
            let (rig, ada, _) = team().await;
            rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
            let before = planned(&rig, &ada).await;
            rig.control().add_fault(lost(path).method("POST"));
            let answer = rig.post(&ada, "upgrade", body.clone()).await;
            rig.control().clear_faults();
            let now = planned(&rig, &ada).await;
            let expected = if answer.status.is_success() { &done } else { &before };
            assert_eq!(&now, expected, "{what}: {}", answer.status);
            rig.post(&ada, "upgrade", body).await;
            assert_eq!(planned(&rig, &ada).await, done, "{what}: again");
            rig.settle().await;
            assert_eq!(planned(&rig, &ada).await, done, "{what}: as Stripe has it");
            rig.assert_valid();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_cancellation_keeps_the_planned_change_and_a_lost_release_counts() {
    let (rig, ada, _) = team().await;
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    let fails = FaultRule::new(FaultKind::ServerError);
    rig.control()
        .add_fault(fails.clone().method("DELETE").path("/v1/subscriptions/"));
    let failed = rig.post(&ada, "cancel", json!({ "when": "now" })).await;
    assert_eq!(failed.status.as_u16(), 503);
    rig.control().clear_faults();
    assert_eq!(planned(&rig, &ada).await, is("team", true, Some("pro")));

    let lost = fails.after().method("POST").path("/v1/subscription_schedules/");
    rig.control().add_fault(lost.times(1));
    rig.post(&ada, "resume", json!({})).await.ok().unwrap();
    assert_eq!(planned(&rig, &ada).await, is("team", false, None));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_that_was_cut_off_does_not_block_the_next_one() {
    let (rig, ada, _) = team().await;
    let lost = FaultRule::new(FaultKind::ServerError).after().method("POST");
    rig.control()
        .add_fault(lost.path("/v1/subscription_schedules").times(1));
    let failed = rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await;
    assert_eq!(failed.status.as_u16(), 503);
    let id = rig.subscription(&ada).await["stripe_subscription_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(rig.control().object(&id).unwrap()["schedule"].is_null());
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    assert_eq!(planned(&rig, &ada).await, is("team", true, Some("pro")));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_behind_an_older_report_keeps_a_subscription_from_ending() {
    let (rig, ada) = with_exports(140).await;
    rig.end_period(&ada).await;
    rig.use_units(&ada, "export", 150).await;
    // A report of the previous period, which cannot be sent.
    sqlx::query(
        "insert into meter_reports (id, identifier, account_id, usage_type, period_start, customer_id, from_units, to_units,
             reported_for, next_attempt_at, created_at, state)
         select gen_random_uuid(), 'parked', account_id, 'export', period_start, customer_id, 0, 1, period_start, now(), now(),
             'parked'
         from billing_periods order by period_start limit 1",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    rig.turn_by(3_600);
    let now = json!({ "when": "now" });
    let refused = rig.post(&ada, "cancel", now.clone()).await;
    assert_eq!(refused.json().unwrap()["error"], "usage_not_reported");
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    sqlx::query("delete from meter_reports where identifier = 'parked'")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.post(&ada, "cancel", now).await.ok().unwrap();
    let cents: i64 = billed(&rig, &ada).iter().map(|(_, cents)| cents).sum();
    assert_eq!(cents, 40 * 5 + 50 * 5);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_another_worker_counts_keeps_a_subscription_from_ending() {
    let (rig, ada) = with_exports(100).await;
    rig.turn_by(3_600);
    let reporter = rig.billing.reporter().unwrap();
    reports::flush(reporter, ada.account, rig.control().now())
        .await
        .unwrap();
    rig.use_units(&ada, "export", 40).await;
    let mut counting = rig.pool.begin().await.unwrap();
    sqlx::query("select from meter_ledger for update")
        .execute(&mut *counting)
        .await
        .unwrap();
    let now = json!({ "when": "now" });
    let refused = rig.post(&ada, "cancel", now.clone()).await;
    assert_eq!(refused.json().unwrap()["error"], "usage_not_reported");
    counting.rollback().await.unwrap();
    rig.turn_by(1);
    rig.post(&ada, "cancel", now).await.ok().unwrap();
    let billed = billed(&rig, &ada);
    assert!(matches!(&billed[..], [(_, 200)]), "{billed:?}");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_completed_even_if_its_caller_hangs_up() {
    let (rig, ada, _) = team().await;
    rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
    let slow = FaultRule::new(FaultKind::Hang { ms: 1_000 })
        .method("POST")
        .path("/v1/subscriptions/");
    rig.control().add_fault(slow.times(1));
    let upgrade = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }));
    let asked = eventually("Stripe is asked", async || (rig.changes().await == 1).then_some(()));
    tokio::select! {
        answer = upgrade => panic!("answered with {}", answer.status),
        () = asked => {}
    }
    eventually("the change is done", async || {
        (planned(&rig, &ada).await == is("enterprise", false, None)).then_some(())
    })
    .await;
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_in_the_portal_is_undone_here() {
    let (rig, ada, _) = team().await;
    let id = rig.subscription(&ada).await["stripe_subscription_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let portal = rig.post(&ada, "portal-session", json!({})).await.ok().unwrap();
    let press = format!("{}/cancel/{id}", portal["portal_url"].as_str().unwrap());
    rig.http.post(&press, "", &Value::Null).await.unwrap();
    rig.settle().await;
    let cancelled = rig.subscription(&ada).await;
    assert_eq!(cancelled["ends_at"], cancelled["period_end"]);
    rig.post(&ada, "resume", json!({})).await.ok().unwrap();
    assert_eq!(planned(&rig, &ada).await, is("team", false, None));
    assert!(rig.control().object(&id).unwrap()["cancel_at"].is_null());
    rig.end_period(&ada).await;
    assert_eq!(planned(&rig, &ada).await, is("team", false, None));
    rig.assert_valid();
}

/// The export lines that were billed on Pro: name and cents.
fn billed(rig: &Rig, who: &Subscriber) -> Vec<(String, i64)> {
    let invoices = rig.control().invoices(&rig.customers(who)[0]);
    let lines = invoices
        .iter()
        .flat_map(|invoice| invoice["lines"]["data"].as_array().unwrap());
    lines
        .map(|line| {
            (
                line["description"].as_str().unwrap().to_owned(),
                line["amount"].as_i64().unwrap(),
            )
        })
        .filter(|(name, cents)| name.contains("Pro: export") && *cents > 0)
        .collect()
}

async fn with_exports(units: i64) -> (Rig, Subscriber) {
    let rig = Rig::billing_usage().await;
    let ada = rig.subscribed("ada", "pro").await;
    rig.use_units(&ada, "export", units).await;
    (rig, ada)
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_recorded_before_an_upgrade_keeps_the_old_prices() {
    // Forty units more than are included, not reported to Stripe yet.
    let (rig, ada) = with_exports(140).await;
    rig.turn_by(3_600);
    assert_eq!(upgrade(&rig, &ada).await.0, 200);
    assert_eq!(billed(&rig, &ada), []);
    rig.end_period(&ada).await;
    let billed = billed(&rig, &ada);
    assert!(
        matches!(&billed[..], [(name, 200)] if name.starts_with("40 × Pro: export")),
        "{billed:?}"
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_of_a_subscriptions_first_minute_is_billed_before_it_ends() {
    let (rig, ada) = with_exports(140).await;
    rig.turn_by(2);
    let now = json!({ "when": "now" });
    let early = rig.post(&ada, "cancel", now.clone()).await;
    let wait_s: i64 = early.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait_s), "{wait_s}");
    assert_eq!(
        (early.status.as_u16(), early.json().unwrap()["error"].clone()),
        (503, json!("usage_not_reported"))
    );
    assert_eq!(planned(&rig, &ada).await, is("pro", false, None));
    rig.turn_by(wait_s);
    rig.post(&ada, "cancel", now).await.ok().unwrap();
    rig.settle().await;
    let billed = billed(&rig, &ada);
    assert!(matches!(&billed[..], [(_, 200)]), "{billed:?}");
    rig.assert_valid();
}

//! What is planned for a subscription stays planned until something else is done.

use devstack::{
    StripeDoubleOptions,
    stripe_double::{Card, FaultKind, FaultRule},
};
use schema::Catalogue;
use serde_json::{Value, json};

use super::rig::{Rig, Subscriber, with_overage};

/// A catalogue with a plan between Pro and Enterprise.
fn with_team() -> Catalogue {
    let team = "[[plan]]
id = \"team\"
name = \"Team\"
price_cents = 9900
features = []
usage.api_call = { limit = 50_000 }
usage.export = { limit = 500 }
usage.sentiment_analysis = { limit = 9_000 }

[[plan]]
id = \"enterprise\"";
    let text = include_str!("../../../schema/plans.toml").replace("[[plan]]\nid = \"enterprise\"", team);
    Catalogue::parse(&text).unwrap()
}

/// A Team subscription, and whose it is.
async fn team() -> (Rig, Subscriber, String) {
    let rig = Rig::with(StripeDoubleOptions::default(), with_team()).await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    rig.check_out(&ada, "team").await;
    rig.settle().await;
    let customer = rig.customers(&ada).remove(0);
    (rig, ada, customer)
}

/// The plan, whether it is due to end, and the plan that is next.
async fn planned(rig: &Rig, who: &Subscriber) -> (String, bool, Option<String>) {
    let subscription = rig.subscription(who).await;
    let text = |field: &str| subscription[field].as_str().map(str::to_owned);
    (
        text("tier").unwrap(),
        !subscription["ends_at"].is_null(),
        text("then_tier"),
    )
}

fn is(tier: &str, ends: bool, then: Option<&str>) -> (String, bool, Option<String>) {
    (tier.to_owned(), ends, then.map(str::to_owned))
}

async fn upgrade(rig: &Rig, who: &Subscriber) -> (u16, Value) {
    let answer = rig.post(who, "upgrade", json!({ "tier": "enterprise" })).await;
    (answer.status.as_u16(), answer.json().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_not_paid_takes_no_plans_back() {
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
        // At once, and as every event tells.
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
async fn an_upgrade_that_is_paid_later_leaves_a_cancellation_to_be_taken_back() {
    let (rig, ada, customer) = team().await;
    rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    let (status, problem) = upgrade(&rig, &ada).await;
    assert_eq!(status, 402);
    assert!(
        problem["message"].as_str().unwrap().contains("/billing/resume"),
        "{problem}"
    );
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    let invoices = rig.control().invoices(&customer);
    let open = invoices.iter().find(|invoice| invoice["status"] == "open").unwrap();
    rig.control().pay_invoice(open["id"].as_str().unwrap()).unwrap();
    rig.settle().await;
    assert_eq!(planned(&rig, &ada).await, is("enterprise", true, None));
    rig.post(&ada, "resume", json!({})).await.ok().unwrap();
    assert_eq!(planned(&rig, &ada).await, is("enterprise", false, None));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_stripe_fails_takes_no_plans_back() {
    let (rig, ada, _) = team().await;
    // Of a cancellation, by a smaller plan.
    rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
    let fails = FaultRule::new(FaultKind::ServerError).method("POST").times(1);
    rig.control()
        .add_fault(fails.clone().path("/v1/subscription_schedules"));
    let failed = rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await;
    assert_eq!(failed.status.as_u16(), 503);
    assert_eq!(planned(&rig, &ada).await, is("team", true, None));

    // Of a smaller plan, by a larger one.
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
async fn an_upgrade_beside_a_planned_one_whose_answer_was_lost_is_done() {
    let (rig, ada, _) = team().await;
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    let lost = FaultRule::new(FaultKind::ServerError).after().method("POST");
    rig.control().add_fault(lost.path("/v1/subscriptions/").times(1));
    assert_eq!(upgrade(&rig, &ada).await.0, 200);
    assert_eq!(planned(&rig, &ada).await, is("enterprise", false, None));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_in_the_portal_is_taken_back_here() {
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

#[tokio::test(flavor = "multi_thread")]
async fn usage_of_before_an_upgrade_is_billed_at_its_own_prices() {
    let rig = Rig::with(StripeDoubleOptions::default(), with_overage()).await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    // Forty past those that are included, which nobody has told to Stripe yet.
    rig.use_units(&ada, "export", 140).await;
    rig.turn_by(3_600);
    assert_eq!(upgrade(&rig, &ada).await.0, 200);
    let invoices = rig.control().invoices(&rig.customers(&ada)[0]);
    let invoices = invoices
        .iter()
        .map(|invoice| invoice["lines"]["data"].as_array().unwrap());
    let lines: Vec<&Value> = invoices.flatten().collect();
    let billed: Vec<(&str, i64)> = lines
        .iter()
        .map(|line| (line["description"].as_str().unwrap(), line["amount"].as_i64().unwrap()))
        .filter(|(name, cents)| name.contains("Pro: export") && *cents > 0)
        .collect();
    assert!(
        matches!(billed[..], [(name, 200)] if name.starts_with("40 × Pro: export")),
        "{lines:?}"
    );
    rig.assert_valid();
}

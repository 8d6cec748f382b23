//! Trials: each account gets one, it needs a card by its end, and it lasts until another plan is chosen.

use devstack::{
    StripeDoubleOptions,
    stripe_double::{Card, FaultKind, FaultRule},
};
use http::{Request, header};
use http_body_util::Full;
use schema::Catalogue;
use serde_json::{Value, json};

use super::rig::{DAY_S, Rig, Subscriber};

/// The built-in catalogue, with a trial of 14 days for the Pro plan.
async fn with_trial() -> Rig {
    let text = include_str!("../../../schema/plans.toml").replace("month = 2900 }", "month = 2900 }\ntrial_days = 14");
    let rig = Rig::with(StripeDoubleOptions::default(), Catalogue::parse(&text).unwrap()).await;
    rig.listen();
    rig
}

/// A subscriber on the first day of a 14-day trial.
async fn trialing() -> (Rig, Subscriber) {
    let rig = with_trial().await;
    let ada = rig.subscribed("ada", "pro").await;
    (rig, ada)
}

/// The status and the plan.
async fn shown(rig: &Rig, who: &Subscriber) -> (String, String) {
    let subscription = rig.subscription(who).await;
    let field = |name: &str| subscription[name].as_str().unwrap().to_owned();
    (field("status"), field("tier"))
}

fn is(status: &str, plan: &str) -> (String, String) {
    (status.to_owned(), plan.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_is_free_until_it_ends() {
    let (rig, ada) = trialing().await;
    let trial = rig.subscription(&ada).await;
    assert_eq!(shown(&rig, &ada).await, is("trialing", "pro"));
    assert_eq!(trial["trial_ends_at"], trial["period_end"]);
    rig.turn_by(14 * DAY_S + 7_200);
    rig.settle().await;
    let paid = rig.subscription(&ada).await;
    assert_eq!(shown(&rig, &ada).await, is("active", "pro"));
    assert_eq!(paid["period_start"], trial["period_end"]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_that_is_cut_short_in_stripe_ends_where_the_next_begins() {
    let (rig, ada) = trialing().await;
    rig.turn_by(3 * DAY_S);
    // An operator ends the trial in Stripe.
    let id = rig.subscription(&ada).await["stripe_subscription_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let request = Request::post(format!("{}/v1/subscriptions/{id}", rig.stripe.url()))
        .header(header::AUTHORIZATION, format!("Bearer {}", rig.stripe.api_key()))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::from("trial_end=now"))
        .unwrap();
    rig.http.send(request).await.unwrap().ok().unwrap();
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("active", "pro"));
    let state = rig.state(&ada).await.unwrap();
    let periods = state["periods"].as_array().unwrap();
    assert_eq!(periods.len(), 2, "{state}");
    assert_eq!(periods[0]["period_end"], periods[1]["period_start"]);
    assert!(periods[0]["final_at"].is_string(), "its invoice was found: {state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_one_trial() {
    let (rig, ada) = trialing().await;
    rig.post(&ada, "cancel", json!({ "when": "now" })).await.ok().unwrap();
    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("active", "pro"));
    assert_eq!(rig.get(&ada, "invoices").await["items"][0]["amount_paid_cents"], 2_900);
    rig.post(&ada, "cancel", json!({ "when": "now" })).await.ok().unwrap();
    let begun = rig
        .post(&ada, "subscriptions", json!({ "tier": "pro" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(begun["status"], "incomplete");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_by_a_form_continues_with_a_card_and_ends_without_one() {
    let rig = with_trial().await;
    let (ada, ben) = (rig.subscriber("ada").await, rig.subscriber("ben").await);
    for who in [&ada, &ben] {
        let begun = rig
            .post(who, "subscriptions", json!({ "tier": "pro" }))
            .await
            .ok()
            .unwrap();
        assert_eq!(begun["status"], "trialing");
        // The secret of a SetupIntent, with which the form stores a card.
        assert!(begun["client_secret"].as_str().unwrap().starts_with("seti_"), "{begun}");
    }
    rig.settle().await;
    let customer = rig.customers(&ada).remove(0);
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    rig.turn_by(14 * DAY_S + 7_200);
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("active", "pro"));
    assert_eq!(shown(&rig, &ben).await, is("none", "free"));
    let invoices = rig.control().invoices(&rig.customers(&ben)[0]);
    assert!(
        invoices.iter().all(|invoice| invoice["amount_due"] == 0),
        "ben owes nothing: {invoices:?}"
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_of_a_trial_is_handed_out_again_until_the_trial_has_a_card() {
    let rig = with_trial().await;
    let ada = rig.subscriber("ada").await;
    let lost = FaultRule::new(FaultKind::ServerError).after().method("POST");
    rig.control().add_fault(lost.path("/v1/subscriptions").times(1));
    let begin = async || rig.post(&ada, "subscriptions", json!({ "tier": "pro" })).await;
    assert_eq!(begin().await.status.as_u16(), 503);
    let begun = begin().await.ok().unwrap();
    assert!(begun["client_secret"].as_str().unwrap().starts_with("seti_"), "{begun}");
    let customer = rig.customers(&ada).remove(0);
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    assert_eq!(begin().await.json().unwrap()["error"], "already_subscribed");
    rig.assert_valid();
}

async fn price_of_enterprise(rig: &Rig, who: &Subscriber) -> Value {
    let preview = json!({ "tier": "enterprise", "preview": true });
    rig.post(who, "upgrade", preview).await.ok().unwrap()["amount_due_cents"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_a_trial_is_paid_from_its_first_day_on() {
    let (rig, ada) = trialing().await;
    rig.turn_by(3 * DAY_S);
    assert_eq!(price_of_enterprise(&rig, &ada).await, 29_900);
    let customer = rig.customers(&ada).remove(0);
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    let refused = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" })).await;
    assert_eq!(refused.status.as_u16(), 402);
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("trialing", "pro"), "the trial continues");

    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    let now = rig.control().now();
    rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("active", "enterprise"));
    // The clocks go on.
    assert!((now..now + 60).contains(&rig.period(&ada).await.start));
    let invoices = rig.get(&ada, "invoices").await;
    let paid = |invoice: &&Value| invoice["amount_paid_cents"] == 29_900;
    assert_eq!(
        invoices["items"].as_array().unwrap().iter().filter(paid).count(),
        1,
        "{invoices}"
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_in_a_trial_begins_once_its_payment_is_confirmed() {
    let (rig, ada) = trialing().await;
    let customer = rig.customers(&ada).remove(0);
    rig.control().set_card(&customer, Some(Card::NeedsAction)).unwrap();
    let refused = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" })).await;
    assert_eq!(refused.status.as_u16(), 402);
    let problem = refused.json().unwrap();
    assert_eq!(problem["error"], "payment_action_required");
    assert_eq!(shown(&rig, &ada).await, is("trialing", "pro"));
    rig.control()
        .confirm_payment(problem["invoice_id"].as_str().unwrap(), true)
        .unwrap();
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("active", "enterprise"));
    rig.assert_valid();
}

//! Of an account's unpaid checkouts and forms, only the latest can be paid.

use devstack::stripe_double::{Card, FaultKind, FaultRule};
use serde_json::{Value, json};

use super::rig::{DAY_S, Rig, Subscriber};

const CHECKOUT: &str = "create-checkout-session";
const FORM: &str = "subscriptions";

async fn begin(rig: &Rig, who: &Subscriber, path: &str, plan: &str) -> Value {
    rig.post(who, path, json!({ "tier": plan })).await.ok().unwrap()
}

/// Pays a checkout or a form.
fn pay(rig: &Rig, who: &Subscriber, begun: &Value) -> anyhow::Result<()> {
    if let Some(session) = begun["session_id"].as_str() {
        return rig.control().complete_checkout(session);
    }
    let subscription = rig
        .control()
        .object(begun["subscription_id"].as_str().unwrap())
        .unwrap();
    let customer = rig.customers(who).remove(0);
    rig.control().set_card(&customer, Some(Card::Ok))?;
    rig.control()
        .pay_invoice(subscription["latest_invoice"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_latest_checkout_or_form_can_be_paid() {
    for [first, second] in [
        [(CHECKOUT, "pro"), (FORM, "pro")],
        [(FORM, "pro"), (CHECKOUT, "pro")],
        [(FORM, "pro"), (FORM, "enterprise")],
        [(CHECKOUT, "enterprise"), (FORM, "pro")],
    ] {
        let what = format!("{first:?}, then {second:?}");
        let rig = Rig::start().await;
        rig.listen();
        let ada = rig.subscriber("ada").await;
        let before = begin(&rig, &ada, first.0, first.1).await;
        let since = begin(&rig, &ada, second.0, second.1).await;
        pay(&rig, &ada, &before).expect_err(&what);
        assert_eq!(
            begin(&rig, &ada, second.0, second.1).await,
            since,
            "{what}: asked again"
        );
        pay(&rig, &ada, &since).expect(&what);
        rig.settle().await;
        let paid = rig.subscription(&ada).await;
        assert_eq!(
            (&paid["tier"], &paid["status"]),
            (&json!(second.1), &json!("active")),
            "{what}"
        );
        let [customer] = &rig.customers(&ada)[..] else {
            panic!("{what}: one customer");
        };
        let subscriptions = rig.control().subscriptions(customer).into_iter();
        assert_eq!(
            subscriptions.filter(|one| one["status"] == "active").count(),
            1,
            "{what}"
        );
        let state = rig.state(&ada).await.unwrap();
        assert_eq!(state["periods"].as_array().unwrap().len(), 1, "{what}: {state}");
        rig.assert_valid();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_was_just_paid_is_not_started_again() {
    for path in [CHECKOUT, FORM] {
        let rig = Rig::start().await;
        let ada = rig.subscriber("ada").await;
        let begun = begin(&rig, &ada, path, "pro").await;
        // No webhook has reported it yet.
        pay(&rig, &ada, &begun).unwrap();
        for again in [CHECKOUT, FORM] {
            let refused = rig.post(&ada, again, json!({ "tier": "pro" })).await;
            let problem = refused.json().unwrap();
            assert_eq!(
                problem["error"], "already_subscribed",
                "{path}, then {again}: {problem}"
            );
        }
        rig.assert_valid();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_not_handed_out_again_if_its_subscription_could_not_be_cancelled() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let dead = begin(&rig, &ada, FORM, "pro").await;
    // Its invoice is void by then.
    let fails = FaultRule::new(FaultKind::ServerError).method("DELETE");
    rig.control().add_fault(fails.path("/v1/subscriptions/"));
    let failed = rig.post(&ada, FORM, json!({ "tier": "enterprise" })).await;
    assert_eq!(failed.status.as_u16(), 503);
    rig.control().clear_faults();
    let again = begin(&rig, &ada, FORM, "pro").await;
    assert_ne!(again["subscription_id"], dead["subscription_id"]);
    pay(&rig, &ada, &dead).unwrap_err();
    pay(&rig, &ada, &again).unwrap();
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["status"], "active");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_form_leaves_no_period() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    begin(&rig, &ada, FORM, "pro").await;
    rig.turn_by(DAY_S);
    rig.settle().await;
    let state = rig.state(&ada).await.unwrap();
    assert_eq!(state["subscriptions"][0]["status"], "incomplete_expired");
    assert_eq!(state["periods"], json!([]));
    rig.assert_valid();
}

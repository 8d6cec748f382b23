//! The catalogue started to bill a usage type when there were no versions: subscriptions that lack a price for it get it, each once.
//! And open checkouts at old prices.

use billing_worker::{reports::attention, subscriptions::unbilled};
use devstack::stripe_double::{FaultKind, FaultRule};
use serde_json::{Value, json};
use unbilled::{Mended, Unbilled};

use super::{
    rig::{Rig, Subscriber, with_overage},
    versions::as_before_versions,
};

async fn unbilled(rig: &Rig) -> Vec<Unbilled> {
    let admin = &rig.billing.admin;
    let unbilled = unbilled::list(&admin.db, &admin.catalogue, None).await.unwrap();
    let attention = attention::find(&admin.db, &admin.catalogue).await.unwrap();
    assert_eq!(attention.unbilled, unbilled);
    unbilled
}

/// Usage types that have a price in the account's Stripe subscription.
async fn billed(rig: &Rig, who: &Subscriber) -> Vec<Value> {
    let state = rig.state(who).await.unwrap();
    let items = state["items"].as_array().unwrap().iter();
    items
        .map(|item| item["usage_type"].clone())
        .filter(|usage_type| !usage_type.is_null())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_gets_a_price_for_each_usage_type_that_its_version_bills() {
    let mut rig = Rig::start().await;
    rig.listen();
    let (ada, ben) = (rig.subscriber("ada").await, rig.subscriber("ben").await);
    for who in [&ada, &ben] {
        rig.check_out(who, "enterprise").await;
    }
    rig.settle().await;
    // Ben's next plan is settled before the catalogue changes.
    rig.post(&ben, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    assert_eq!(unbilled(&rig).await, []);

    rig.roll_out(with_overage()).await;
    assert_eq!(unbilled(&rig).await, [], "their version bills none");
    as_before_versions(&rig, 2).await;
    let lacking = unbilled(&rig).await;
    assert_eq!(
        lacking
            .iter()
            .map(|of| (of.account_id, of.plan.as_str()))
            .collect::<Vec<_>>(),
        [(ada.account, "enterprise"), (ben.account, "enterprise")]
    );
    assert!(lacking.iter().all(|of| of.usage_types == ["export"]));

    // Stripe makes the change and its response is lost. The change is retried and made once.
    let reset = FaultRule::new(FaultKind::Reset)
        .method("POST")
        .path("/v1/subscriptions")
        .after();
    rig.control().add_fault(reset.times(1));
    for expected in [Mended::Added, Mended::Complete] {
        assert_eq!(unbilled::mend(&rig.billing, ada.account).await.unwrap(), expected);
    }
    assert_eq!(
        unbilled::mend(&rig.billing, ben.account).await.unwrap(),
        Mended::Scheduled
    );
    rig.settle().await;
    assert_eq!(billed(&rig, &ada).await, ["export"]);
    assert_eq!(
        unbilled(&rig).await.iter().map(|of| of.account_id).collect::<Vec<_>>(),
        [ben.account]
    );
    // Without a schedule it follows too.
    rig.post(&ben, "resume", json!({})).await.ok().unwrap();
    assert_eq!(unbilled::mend(&rig.billing, ben.account).await.unwrap(), Mended::Added);
    assert_eq!(
        unbilled::mend(&rig.billing, ben.account).await.unwrap(),
        Mended::Complete
    );
    assert_eq!(billed(&rig, &ben).await, ["export"]);
    assert_eq!(unbilled(&rig).await, []);

    // The Enterprise plan includes a thousand exports; each further one is four cents.
    rig.use_units(&ada, "export", 1_025).await;
    rig.use_units(&ben, "export", 1_000).await;
    rig.end_period(&ada).await;
    for (who, total) in [(&ada, 29_900 + 100), (&ben, 29_900)] {
        assert_eq!(billed(&rig, who).await, ["export"]);
        let invoices = rig.get(who, "invoices").await;
        let invoice = &invoices["items"][0];
        assert_eq!(
            (&invoice["status"], &invoice["total_cents"]),
            (&json!("paid"), &json!(total))
        );
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_stripe_does_not_block_the_next_attempt() {
    let mut rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "enterprise").await;
    // Whether it took effect or not, Stripe repeats a failure under its key for a day.
    let fails = FaultRule::new(FaultKind::ServerError).method("POST").times(1);
    for fault in [
        fails.clone().path("/v1/products"),
        fails.clone().after().path("/v1/prices"),
        fails.clone().path("/v1/subscriptions"),
    ] {
        rig.control().add_fault(fault);
    }
    rig.roll_out(with_overage()).await;
    as_before_versions(&rig, 1).await;
    unbilled::mend(&rig.billing, ada.account).await.unwrap_err();
    assert_eq!(unbilled::mend(&rig.billing, ada.account).await.unwrap(), Mended::Added);
    rig.settle().await;
    assert_eq!(billed(&rig, &ada).await, ["export"]);
    rig.assert_valid();
}

/// Requests a Pro plan. Returns the id in the field of that name.
async fn ask(rig: &Rig, who: &Subscriber, path: &str, field: &str) -> String {
    let answer = rig.post(who, path, json!({ "tier": "pro" })).await.ok().unwrap();
    answer[field].as_str().unwrap().to_owned()
}

/// Two requests return the same id until the catalogue bills more. Returns the ids before and after.
async fn asked_over_a_roll_out(rig: &mut Rig, who: &Subscriber, path: &str, field: &str) -> (String, String) {
    let before = ask(rig, who, path, field).await;
    assert_eq!(ask(rig, who, path, field).await, before);
    rig.roll_out(with_overage()).await;
    let since = ask(rig, who, path, field).await;
    assert_ne!(since, before);
    assert_eq!(ask(rig, who, path, field).await, since);
    (before, since)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_at_old_prices_is_not_handed_out_again() {
    let mut rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let (before, since) = asked_over_a_roll_out(&mut rig, &ada, "create-checkout-session", "session_id").await;
    rig.control().complete_checkout(&before).unwrap_err();
    rig.control().complete_checkout(&since).unwrap();
    rig.settle().await;
    assert_eq!(billed(&rig, &ada).await, ["export"]);
    assert_eq!(unbilled(&rig).await, []);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_subscription_at_old_prices_is_replaced() {
    let mut rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let (before, since) = asked_over_a_roll_out(&mut rig, &ada, "subscriptions", "subscription_id").await;
    let invoice = |id: &str| {
        rig.control().object(id).unwrap()["latest_invoice"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (before, since) = (invoice(&before), invoice(&since));
    rig.control().pay_invoice(&before).unwrap_err();
    rig.control().pay_invoice(&since).unwrap();
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["status"], "active");
    assert_eq!(billed(&rig, &ada).await, ["export"]);
    rig.assert_valid();
}

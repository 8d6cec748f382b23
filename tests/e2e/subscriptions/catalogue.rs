//! A catalogue that bills what it did not: checkouts that are open and subscriptions that run are brought along, each once.

use billing_worker::{reports::list, subscriptions::unbilled};
use devstack::stripe_double::{FaultKind, FaultRule};
use serde_json::{Value, json};
use unbilled::{Mended, Unbilled};
use uuid::Uuid;

use super::rig::{DAY_S, Rig, Subscriber, with_overage};

async fn unbilled(rig: &Rig) -> Vec<Unbilled> {
    let admin = &rig.billing.admin;
    let unbilled = unbilled::list(&admin.db, &admin.catalogue, Uuid::nil(), 100)
        .await
        .unwrap();
    let attention = list::attention(&admin.db, &admin.catalogue).await.unwrap();
    assert_eq!(attention.unbilled, unbilled);
    unbilled
}

/// Usage types that the account's subscription in Stripe has a price for.
async fn billed(rig: &Rig, who: &Subscriber) -> Vec<Value> {
    let state = rig.state(who).await.unwrap();
    let items = state["items"].as_array().unwrap().iter();
    items
        .map(|item| item["usage_type"].clone())
        .filter(|usage_type| !usage_type.is_null())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_subscription_is_billed_for_what_its_plan_bills_since() {
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
    let lacking = unbilled(&rig).await;
    assert_eq!(
        lacking
            .iter()
            .map(|of| (of.account_id, of.plan.as_str()))
            .collect::<Vec<_>>(),
        [(ada.account, "enterprise"), (ben.account, "enterprise")]
    );
    assert!(lacking.iter().all(|of| of.usage_types == ["export"]));

    // It is done, and the answer is lost: done again, it is done once.
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
    // Without a schedule it is brought along, too.
    rig.post(&ben, "resume", json!({})).await.ok().unwrap();
    assert_eq!(unbilled::mend(&rig.billing, ben.account).await.unwrap(), Mended::Added);
    assert_eq!(
        unbilled::mend(&rig.billing, ben.account).await.unwrap(),
        Mended::Complete
    );
    assert_eq!(billed(&rig, &ben).await, ["export"]);
    assert_eq!(unbilled(&rig).await, []);

    rig.turn_by(31 * DAY_S);
    rig.settle().await;
    for who in [&ada, &ben] {
        assert_eq!(billed(&rig, who).await, ["export"]);
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_at_prices_of_before_is_not_handed_out_again() {
    let mut rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let open = async |rig: &Rig| {
        let opened = rig
            .post(&ada, "create-checkout-session", json!({ "tier": "pro" }))
            .await;
        opened.ok().unwrap()["session_id"].as_str().unwrap().to_owned()
    };
    let before = open(&rig).await;
    assert_eq!(open(&rig).await, before);
    rig.roll_out(with_overage()).await;
    let after = open(&rig).await;
    assert_ne!(after, before);
    assert_eq!(open(&rig).await, after);
    rig.control().complete_checkout(&before).unwrap_err();
    rig.control().complete_checkout(&after).unwrap();
    rig.settle().await;
    assert_eq!(billed(&rig, &ada).await, ["export"]);
    assert_eq!(unbilled(&rig).await, []);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_waits_for_its_payment_at_prices_of_before_is_begun_anew() {
    let mut rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    let begin = async |rig: &Rig| {
        let begun = rig.post(&ada, "subscriptions", json!({ "tier": "pro" })).await;
        begun.ok().unwrap()["subscription_id"].as_str().unwrap().to_owned()
    };
    let before = begin(&rig).await;
    assert_eq!(begin(&rig).await, before);
    rig.roll_out(with_overage()).await;
    let after = begin(&rig).await;
    assert_ne!(after, before);
    assert_eq!(begin(&rig).await, after);
    rig.assert_valid();
}

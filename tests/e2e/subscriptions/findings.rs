//! States in Stripe that an operator must solve: each is a finding until it is gone.

use billing_worker::{
    accounts::customers, findings::repository::FindingView, reports::attention, subscriptions::refresh,
};
use devstack::stripe_double::Card;
use http::Method;
use serde_json::{Value, json};

use super::rig::{Rig, Subscriber};

pub(super) async fn findings(rig: &Rig) -> Vec<FindingView> {
    let admin = &rig.billing.admin;
    attention::find(&admin.db, &admin.catalogue).await.unwrap().findings
}

/// The kinds and subjects of all open findings.
pub(super) async fn open(rig: &Rig) -> Vec<(String, String)> {
    let open = findings(rig).await.into_iter();
    open.map(|finding| (finding.kind, finding.subject)).collect()
}

pub(super) fn one(kind: &str, subject: &str) -> Vec<(String, String)> {
    vec![(kind.to_owned(), subject.to_owned())]
}

/// A customer with a card, for whom a person starts subscriptions in Stripe's dashboard.
async fn customer(rig: &Rig, who: &Subscriber) -> String {
    let customer = customers::ensure(&rig.billing, who.account).await.unwrap();
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    customer
}

/// A price of $19 a month on this product, as made in the dashboard.
async fn price(rig: &Rig, product: &str) -> String {
    let form = format!("currency=usd&unit_amount=1900&recurring[interval]=month&product={product}");
    id(&rig.call_stripe(Method::POST, "/v1/prices", &form).await)
}

pub(super) async fn subscribe(rig: &Rig, customer: &str, price: &str) -> String {
    let form = format!("customer={customer}&items[0][price]={price}");
    let subscription = rig.call_stripe(Method::POST, "/v1/subscriptions", &form).await;
    assert_eq!(subscription["status"], "active");
    rig.settle().await;
    id(&subscription)
}

pub(super) fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

/// Status and `error` of the answer.
async fn asked(rig: &Rig, who: &Subscriber, path: &str) -> (u16, Value) {
    let answer = rig.post(who, path, json!({ "tier": "pro" })).await;
    (answer.status.as_u16(), answer.json().unwrap()["error"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_made_on_our_product_gives_its_plan() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let customer = customer(&rig, &ada).await;
    let price = price(&rig, "trendit_pro").await;
    let subscription = subscribe(&rig, &customer, &price).await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    let found = findings(&rig).await.remove(0);
    assert_eq!((found.kind.as_str(), &found.subject), ("foreign_price", &subscription));
    assert_eq!(found.account_id, Some(ada.account));
    assert!(
        found.text.contains(&price) && found.remedy.contains("trendit_plan"),
        "{found:?}"
    );
    // The customer is not sold a second subscription.
    for path in ["create-checkout-session", "subscriptions"] {
        assert_eq!(
            asked(&rig, &ada, path).await,
            (409, json!("already_subscribed")),
            "{path}"
        );
    }
    // The same finding, however often it is found.
    refresh::refresh(&rig.billing, ada.account).await.unwrap();
    let again = findings(&rig).await;
    assert_eq!((again.len(), again[0].first_seen_at), (1, found.first_seen_at));

    // An upgrade gives it our own price.
    rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(rig.subscription(&ada).await["tier"], "enterprise");
    assert_eq!(open(&rig).await, []);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_an_operator_names_is_as_good_as_ours() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let customer = customer(&rig, &ada).await;
    let price = price(&rig, "trendit_pro").await;
    let subscription = subscribe(&rig, &customer, &price).await;
    assert_eq!(open(&rig).await, one("foreign_price", &subscription));
    let path = format!("/v1/prices/{price}");
    rig.call_stripe(Method::POST, &path, "metadata[trendit_plan]=pro").await;
    refresh::refresh(&rig.billing, ada.account).await.unwrap();
    assert_eq!(open(&rig).await, []);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_checkout_is_refused_while_an_unknown_subscription_runs() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let customer = customer(&rig, &ada).await;
    let product = id(&rig.call_stripe(Method::POST, "/v1/products", "name=Consulting").await);
    let price = price(&rig, &product).await;
    let subscription = subscribe(&rig, &customer, &price).await;
    assert_eq!(rig.subscription(&ada).await["tier"], "free");
    assert_eq!(open(&rig).await, one("unknown_subscription", &subscription));
    for path in ["create-checkout-session", "subscriptions"] {
        assert_eq!(
            asked(&rig, &ada, path).await,
            (409, json!("unknown_subscription")),
            "{path}"
        );
    }
    // Another business in the same Stripe account.
    let path = format!("/v1/subscriptions/{subscription}");
    rig.call_stripe(Method::POST, &path, "metadata[trendit]=ignore").await;
    rig.settle().await;
    assert_eq!(open(&rig).await, []);
    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    assert_eq!(open(&rig).await, []);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subscriptions_of_one_customer_are_a_finding_until_one_is_cancelled() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let customer = rig.customers(&ada).remove(0);
    let first = rig.subscription(&ada).await["stripe_subscription_id"].clone();
    let price = price(&rig, "trendit_enterprise").await;
    rig.call_stripe(
        Method::POST,
        &format!("/v1/prices/{price}"),
        "metadata[trendit_plan]=enterprise",
    )
    .await;
    rig.turn_by(60);
    let second = subscribe(&rig, &customer, &price).await;
    assert_eq!(rig.subscription(&ada).await["tier"], "enterprise");
    assert_eq!(open(&rig).await, one("two_subscriptions", &customer));
    let found = findings(&rig).await.remove(0);
    assert!(found.text.contains(first.as_str().unwrap()) && found.text.contains(&second));
    let path = format!("/v1/subscriptions/{}", first.as_str().unwrap());
    rig.call_stripe(Method::DELETE, &path, "").await;
    rig.settle().await;
    assert_eq!(open(&rig).await, []);
    assert_eq!(rig.subscription(&ada).await["stripe_subscription_id"], second);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quantity_of_three_is_an_alarm_and_an_upgrade_makes_it_one() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let subscription = rig.subscription(&ada).await["stripe_subscription_id"].clone();
    let subscription = subscription.as_str().unwrap();
    let quantity = || {
        let shown = rig.control().object(subscription).unwrap();
        shown["items"]["data"][0]["quantity"].clone()
    };
    let item = rig.control().object(subscription).unwrap()["items"]["data"][0]["id"].clone();
    let three = format!("items[0][id]={}&items[0][quantity]=3", item.as_str().unwrap());
    rig.call_stripe(Method::POST, &format!("/v1/subscriptions/{subscription}"), &three)
        .await;
    rig.settle().await;
    assert_eq!(open(&rig).await, one("quantity", subscription));
    let preview = json!({ "tier": "enterprise", "preview": true });
    let preview = rig.post(&ada, "upgrade", preview).await.ok().unwrap();
    // A planned change leaves the running period as it is.
    let later = json!({ "tier": "enterprise", "when": "period_end" });
    rig.post(&ada, "upgrade", later).await.ok().unwrap();
    assert_eq!(quantity(), 3);
    rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(quantity(), 1);
    assert_eq!(open(&rig).await, []);
    let customer = rig.customers(&ada).remove(0);
    let invoices = rig.control().invoices(&customer);
    let cents = |value: &Value| value.as_i64().unwrap();
    let (charged, shown) = (
        cents(&invoices.last().unwrap()["total"]),
        cents(&preview["amount_due_cents"]),
    );
    // The clock goes on between the two.
    assert!((charged - shown).abs() < 10, "{charged} {shown}");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_collection_is_a_finding_until_it_is_resumed() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let subscription = rig.subscription(&ada).await["stripe_subscription_id"].clone();
    let path = format!("/v1/subscriptions/{}", subscription.as_str().unwrap());
    for (form, expected) in [
        (
            "pause_collection[behavior]=void",
            one("paused_collection", subscription.as_str().unwrap()),
        ),
        ("pause_collection=", vec![]),
    ] {
        rig.call_stripe(Method::POST, &path, form).await;
        rig.settle().await;
        assert_eq!(open(&rig).await, expected);
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_plans_in_one_subscription_are_an_alarm() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let subscription = rig.subscription(&ada).await["stripe_subscription_id"].clone();
    let subscription = subscription.as_str().unwrap();
    let prices = rig
        .call_stripe(Method::GET, "/v1/prices?lookup_keys[]=trendit_enterprise", "")
        .await;
    let enterprise = id(&prices["data"][0]);
    let form = format!("subscription={subscription}&price={enterprise}&quantity=1");
    let item = id(&rig.call_stripe(Method::POST, "/v1/subscription_items", &form).await);
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    assert_eq!(open(&rig).await, one("two_plans", subscription));
    assert!(findings(&rig).await[0].text.contains(&enterprise));
    let path = format!("/v1/subscription_items/{item}");
    rig.call_stripe(Method::DELETE, &path, "").await;
    rig.settle().await;
    assert_eq!(open(&rig).await, []);
    rig.assert_valid();
}

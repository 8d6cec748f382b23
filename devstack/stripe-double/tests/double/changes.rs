//! Changes and cancellations of subscriptions in the middle of a period.

use serde_json::Value;
use stripe_double::BillingSettings;

use crate::rig::Rig;
use crate::timeline::{DAY, START, period, starting, subscribe, time};

#[tokio::test]
async fn cancellation_at_the_period_end_can_be_undone_and_bills_the_last_usage() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!(
        "customer={customer}&items[0][price]={}&items[1][price]={}",
        plans.pro, plans.calls
    );
    let id = rig.client.id("/v1/subscriptions", &items).await;
    let path = format!("/v1/subscriptions/{id}");
    let ending = rig.client.ok(&path, "cancel_at_period_end=true").await;
    let end = period(&ending).1;
    assert_eq!(time(&ending, "cancel_at"), end);
    let kept = rig.client.ok(&path, "cancel_at_period_end=false").await;
    assert!(kept["cancel_at"].is_null() && kept["canceled_at"].is_null());
    rig.client.ok(&path, "cancel_at_period_end=true").await;
    rig.client
        .meter(&customer, "a", 1_007, rig.control.now())
        .await
        .ok()
        .unwrap();
    rig.control.advance_to(end + 3_600);
    let ended = rig.control.object(&id).unwrap();
    assert_eq!((&ended["status"], time(&ended, "ended_at")), (&"canceled".into(), end));
    let last = rig.control.invoices(&customer).pop().unwrap();
    assert_eq!((&last["status"], time(&last, "total")), (&"paid".into(), 7));
    rig.control.advance_by(100 * DAY);
    assert_eq!(
        rig.control.invoices(&customer).len(),
        2,
        "nothing is billed after the end"
    );
}

#[tokio::test]
async fn credit_of_a_downgrade_now_pays_for_later_invoices() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let body = format!("customer={customer}&items[0][price]={}", plans.enterprise);
    let subscription = rig.client.ok("/v1/subscriptions", &body).await;
    let (id, item) = (
        subscription["id"].as_str().unwrap(),
        subscription["items"]["data"][0]["id"].as_str().unwrap(),
    );
    let (start, end) = period(&subscription);
    rig.control.advance_to((start + end) / 2);
    let change = format!(
        "items[0][id]={item}&items[0][price]={}&proration_behavior=always_invoice",
        plans.pro
    );
    rig.client.ok(&format!("/v1/subscriptions/{id}"), &change).await;
    let balance = || time(&rig.control.object(&customer).unwrap(), "balance");
    assert_eq!(balance(), -13_500, "half of $299 back, half of $29 to pay");
    rig.control.advance_to(end + 3_600);
    assert_eq!(balance(), -10_600);
    let renewal = rig.control.invoices(&customer).pop().unwrap();
    assert_eq!((time(&renewal, "amount_due"), time(&renewal, "total")), (0, 2_900));
    assert_eq!(
        (time(&renewal, "starting_balance"), time(&renewal, "ending_balance")),
        (-13_500, -10_600)
    );
}

#[tokio::test]
async fn new_anchor_bills_the_usage_of_the_period_that_it_cuts_short() {
    for behavior in ["always_invoice", "none"] {
        let rig = Rig::start(starting(BillingSettings::default())).await;
        let (plans, customer) = (rig.catalogue().await, rig.customer().await);
        let items = format!(
            "customer={customer}&items[0][price]={}&items[1][price]={}",
            plans.pro, plans.calls
        );
        let subscription = rig.client.ok("/v1/subscriptions", &items).await;
        let id = subscription["id"].as_str().unwrap();
        rig.control.advance_by(10 * DAY);
        rig.client
            .meter(&customer, "a", 1_005, rig.control.now() - 1)
            .await
            .ok()
            .unwrap();
        let reset = format!("billing_cycle_anchor[type]=now&proration_behavior={behavior}");
        let reset = rig.client.ok(&format!("/v1/subscriptions/{id}"), &reset).await;
        assert!(period(&reset).0 >= START + 10 * DAY);
        let invoice = rig.control.invoices(&customer).pop().unwrap();
        let amounts: Vec<_> = invoice["lines"]["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| time(line, "amount"))
            .collect();
        assert!(amounts.contains(&5) && amounts.contains(&2_900), "{amounts:?}");
        assert_eq!(amounts.iter().any(|amount| *amount < 0), behavior == "always_invoice");
    }
}

#[tokio::test]
async fn trial_that_is_canceled_bills_and_credits_nothing() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!("items[0][price]={}&items[1][price]={}", plans.pro, plans.calls);
    let id = rig
        .client
        .id(
            "/v1/subscriptions",
            &format!("customer={customer}&{items}&trial_period_days=14"),
        )
        .await;
    rig.client
        .meter(&customer, "a", 9_000, rig.control.now())
        .await
        .ok()
        .unwrap();
    rig.control.advance_by(DAY);
    let path = format!("/v1/subscriptions/{id}");
    let canceled = rig
        .client
        .send(http::Method::DELETE, &path, "invoice_now=true&prorate=true", "")
        .await
        .unwrap();
    assert_eq!(canceled.ok().unwrap()["status"], "canceled");
    assert_eq!(rig.control.object(&customer).unwrap()["balance"], 0);
    assert_eq!(rig.control.invoices(&customer).len(), 1, "the trial's own, of $0");
}

#[tokio::test]
async fn usage_of_the_current_second_is_on_the_last_invoice() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let id = subscribe(&rig, &customer, &plans.calls).await;
    assert_eq!(
        rig.control.invoices(&customer).len(),
        0,
        "nothing is charged in advance"
    );
    rig.client
        .meter(&customer, "a", 1_042, rig.control.now())
        .await
        .ok()
        .unwrap();
    let path = format!("/v1/subscriptions/{id}");
    rig.client
        .send(http::Method::DELETE, &path, "invoice_now=true", "")
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(rig.control.invoices(&customer).pop().unwrap()["total"], 42);
}

#[tokio::test]
async fn schedule_follows_an_upgrade_and_then_downgrades_at_the_end() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!(
        "customer={customer}&items[0][price]={}&items[1][price]={}",
        plans.pro, plans.calls
    );
    let subscription = rig.client.ok("/v1/subscriptions", &items).await;
    let (id, item) = (
        subscription["id"].as_str().unwrap(),
        subscription["items"]["data"][0]["id"].as_str().unwrap(),
    );
    let schedule = rig
        .client
        .id("/v1/subscription_schedules", &format!("from_subscription={id}"))
        .await;
    let upgrade = format!(
        "items[0][id]={item}&items[0][price]={}&proration_behavior=always_invoice",
        plans.enterprise
    );
    rig.client.ok(&format!("/v1/subscriptions/{id}"), &upgrade).await;
    let (start, end) = period(&subscription);
    let now = format!("phases[0][start_date]={start}&phases[0][end_date]={end}");
    // Another order than in the subscription: the order has no meaning.
    let now = format!(
        "{now}&phases[0][items][0][price]={}&phases[0][items][1][price]={}",
        plans.calls, plans.enterprise
    );
    let then = format!(
        "phases[1][items][0][price]={}&phases[1][items][1][price]={}",
        plans.pro, plans.calls
    );
    rig.client
        .ok(
            &format!("/v1/subscription_schedules/{schedule}"),
            &format!("{now}&{then}"),
        )
        .await;
    rig.control.advance_to(end);
    let prices = |object: &Value| {
        let items = object["items"]["data"].as_array().unwrap().iter();
        items
            .map(|item| item["price"]["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let downgraded = rig.control.object(id).unwrap();
    assert_eq!(prices(&downgraded), [plans.pro.clone(), plans.calls.clone()]);
    assert_eq!(rig.control.invoices(&customer).pop().unwrap()["total"], 2_900);
    let released = rig
        .client
        .ok(&format!("/v1/subscription_schedules/{schedule}/release"), "")
        .await;
    assert_eq!(
        (&released["status"], &released["released_subscription"]),
        (&"released".into(), &id.into())
    );
    assert_eq!(rig.control.violations(), [""; 0]);
}

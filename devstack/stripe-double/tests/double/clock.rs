//! What the clock brings, turned by the test.

use serde_json::Value;
use stripe_double::StripeDoubleOptions;
use stripe_double::{AfterDunning, BillingSettings, Card};

use crate::rig::Rig;

const DAY: i64 = 86_400;
/// 2026-01-31T12:00:00Z: the month after it is shorter.
const START: i64 = 1_769_860_800;

fn starting(billing: BillingSettings) -> StripeDoubleOptions {
    StripeDoubleOptions {
        start_at: Some(START),
        seed: 7,
        billing,
        ..StripeDoubleOptions::default()
    }
}

fn time(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap()
}

/// (start, end) of the first item.
fn period(subscription: &Value) -> (i64, i64) {
    let item = &subscription["items"]["data"][0];
    (time(item, "current_period_start"), time(item, "current_period_end"))
}

/// A customer's subscription to one price.
async fn subscribe(rig: &Rig, customer: &str, price: &str) -> String {
    let params = format!("customer={customer}&items[0][price]={price}");
    rig.client.id("/v1/subscriptions", &params).await
}

#[tokio::test]
async fn three_periods_are_billed_for_what_was_counted_in_each() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!(
        "customer={customer}&items[0][price]={}&items[1][price]={}",
        plans.pro, plans.calls
    );
    let id = rig.client.id("/v1/subscriptions", &items).await;
    let mut ends = Vec::new();
    // Each period's usage past the 1,000 included is another power of ten: the invoices name a period that lost its own.
    for (n, past) in [1, 10, 100].into_iter().enumerate() {
        let (start, end) = period(&rig.control.object(&id).unwrap());
        ends.push(end);
        rig.control.advance_to(start + 10);
        assert!(
            rig.client
                .meter(&customer, &format!("first-{n}"), 1_000, start)
                .await
                .status
                .is_success()
        );
        rig.control.advance_to(end);
        // In the draft hour, for the period that has ended.
        assert!(
            rig.client
                .meter(&customer, &format!("last-{n}"), past, end - 1)
                .await
                .status
                .is_success()
        );
        let draft = rig.control.invoices(&customer).pop().unwrap();
        assert_eq!(draft["status"], "draft");
        assert_eq!(time(&draft, "automatically_finalizes_at"), end + 3_600);
        rig.control.advance_by(3_600);
        let paid = rig.control.object(draft["id"].as_str().unwrap()).unwrap();
        assert_eq!(
            (&paid["status"], time(&paid, "amount_paid")),
            (&"paid".into(), 2_900 + past)
        );
        assert_eq!((time(&paid, "period_start"), time(&paid, "period_end")), (start, end));
        assert_eq!(rig.control.meter_total(&customer, "api_call", start, end), 1_000 + past);
    }
    // 28 February, 31 March, 30 April, each at noon: the anchor is the 31st, whatever a short month makes of it.
    let days: Vec<_> = ends.iter().map(|end| (end - START) / DAY).collect();
    assert_eq!(days, [28, 59, 89]);
    let kinds = rig.kinds(0);
    let count = |kind: &str| kinds.iter().filter(|other| *other == kind).count();
    assert_eq!(
        (
            count("invoice.paid"),
            count("invoice.payment_succeeded"),
            count("invoice.finalized")
        ),
        (4, 4, 4)
    );
    assert_eq!(
        (count("invoice.upcoming"), count("customer.subscription.created")),
        (3, 1)
    );
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn renewal_that_fails_is_tried_again_and_then_ends_the_subscription() {
    for (after, status) in [
        (AfterDunning::Cancel, "canceled"),
        (AfterDunning::Unpaid, "unpaid"),
        (AfterDunning::PastDue, "past_due"),
    ] {
        let rig = Rig::start(starting(BillingSettings {
            after_dunning: after,
            ..BillingSettings::default()
        }))
        .await;
        let (plans, customer) = (rig.catalogue().await, rig.customer().await);
        let id = subscribe(&rig, &customer, &plans.pro).await;
        rig.control.set_card(&customer, Some(Card::Declines)).unwrap();
        let end = period(&rig.control.object(&id).unwrap()).1;
        rig.control.advance_to(end + 3_600);
        let status_now = || rig.control.object(&id).unwrap()["status"].clone();
        assert_eq!(status_now(), "past_due");
        let mut at = end + 3_600;
        for (n, days) in [3, 5, 7].into_iter().enumerate() {
            let invoice = rig.control.invoices(&customer).pop().unwrap();
            assert_eq!(
                (time(&invoice, "attempt_count"), time(&invoice, "next_payment_attempt")),
                (i64::try_from(n).unwrap() + 1, at + days * DAY)
            );
            at += days * DAY;
            rig.control.advance_to(at - 1);
            assert_eq!(status_now(), "past_due");
            rig.control.advance_to(at);
        }
        assert_eq!(status_now(), status);
        assert_eq!(
            rig.kinds(0)
                .iter()
                .filter(|kind| *kind == "invoice.payment_failed")
                .count(),
            4
        );
        assert_eq!(rig.control.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn payment_of_an_overdue_invoice_revives_the_subscription() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let id = subscribe(&rig, &customer, &plans.pro).await;
    rig.control.set_card(&customer, Some(Card::Declines)).unwrap();
    let end = period(&rig.control.object(&id).unwrap()).1;
    rig.control.advance_to(end + 3_600 + DAY);
    rig.control.set_card(&customer, Some(Card::Ok)).unwrap();
    rig.control.advance_to(end + 3_600 + 3 * DAY);
    assert_eq!(rig.control.object(&id).unwrap()["status"], "active");
}

#[tokio::test]
async fn trial_is_announced_ends_and_is_paid_or_not() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, card) = (rig.catalogue().await, rig.customer().await);
    let bare = rig.client.id("/v1/customers", "email=b%40example.com").await;
    let trial = |customer: &str, how: &str| {
        let items = format!("items[0][price]={}&items[1][price]={}", plans.pro, plans.calls);
        let settings = format!("trial_settings[end_behavior][missing_payment_method]={how}");
        format!("customer={customer}&{items}&trial_period_days=14&{settings}")
    };
    let paying = rig
        .client
        .ok("/v1/subscriptions", &trial(&card, "create_invoice"))
        .await;
    assert_eq!(paying["status"], "trialing");
    let pausing = rig.client.id("/v1/subscriptions", &trial(&bare, "pause")).await;
    let ending = rig.client.id("/v1/subscriptions", &trial(&bare, "cancel")).await;
    rig.client
        .meter(&card, "on-trial", 5_000, rig.control.now())
        .await
        .ok()
        .unwrap();
    let end = time(&paying, "trial_end");
    rig.control.advance_to(end - 3 * DAY - 10);
    assert!(
        !rig.kinds(0)
            .contains(&"customer.subscription.trial_will_end".to_owned())
    );
    rig.control.advance_to(end - 3 * DAY + 10);
    assert_eq!(
        rig.kinds(0)
            .iter()
            .filter(|kind| *kind == "customer.subscription.trial_will_end")
            .count(),
        3
    );
    rig.control.advance_to(end + 3_700);
    let status = |id: &str| rig.control.object(id).unwrap()["status"].as_str().unwrap().to_owned();
    assert_eq!(
        [
            status(paying["id"].as_str().unwrap()),
            status(&pausing),
            status(&ending)
        ],
        ["active", "paused", "canceled"]
    );
    let invoices = rig.control.invoices(&card);
    let amounts: Vec<_> = invoices.iter().map(|invoice| time(invoice, "amount_paid")).collect();
    assert_eq!(amounts, [0, 2_900], "a trial's usage is free");
    rig.control.set_card(&bare, Some(Card::Ok)).unwrap();
    let resumed = rig
        .client
        .ok(
            &format!("/v1/subscriptions/{pausing}/resume"),
            "billing_cycle_anchor[type]=now",
        )
        .await;
    assert_eq!(resumed["status"], "active");
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn cancellation_at_the_end_can_be_taken_back_and_bills_the_last_usage() {
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
async fn what_nobody_pays_expires_after_23_hours() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let incomplete = format!(
        "customer={customer}&items[0][price]={}&payment_behavior=default_incomplete",
        plans.pro
    );
    let never = rig.client.id("/v1/subscriptions", &incomplete).await;
    let subscription = rig
        .client
        .ok(
            "/v1/subscriptions",
            &format!("customer={customer}&items[0][price]={}", plans.pro),
        )
        .await;
    rig.control.set_card(&customer, Some(Card::Declines)).unwrap();
    let (id, item) = (
        subscription["id"].as_str().unwrap(),
        subscription["items"]["data"][0]["id"].as_str().unwrap(),
    );
    let change = format!("items[0][id]={item}&items[0][price]={}", plans.enterprise);
    let change = format!("{change}&proration_behavior=always_invoice&payment_behavior=pending_if_incomplete");
    let waiting = rig.client.ok(&format!("/v1/subscriptions/{id}"), &change).await;
    assert!(waiting["pending_update"].is_object());
    rig.control.advance_by(23 * 3_600 + 1);
    assert_eq!(rig.control.object(&never).unwrap()["status"], "incomplete_expired");
    let given_up = rig.control.object(id).unwrap();
    assert!(given_up["pending_update"].is_null());
    assert_eq!(
        (&given_up["status"], &given_up["items"]["data"][0]["price"]["id"]),
        (&"active".into(), &plans.pro.into())
    );
    let kinds = rig.kinds(0);
    assert_eq!(kinds.iter().filter(|kind| *kind == "invoice.voided").count(), 2);
    assert!(kinds.contains(&"customer.subscription.pending_update_expired".to_owned()));
}

#[tokio::test]
async fn checkout_that_nobody_completes_expires() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let plans = rig.catalogue().await;
    let items = format!("line_items[0][price]={}&line_items[0][quantity]=1", plans.pro);
    let body = format!("mode=subscription&success_url=https://example.com&customer_email=c%40example.com&{items}");
    let id = rig.client.id("/v1/checkout/sessions", &body).await;
    rig.control.advance_by(DAY + 1);
    assert_eq!(rig.control.object(&id).unwrap()["status"], "expired");
    assert!(rig.control.complete_checkout(&id).is_err());
    assert!(rig.kinds(0).contains(&"checkout.session.expired".to_owned()));
    assert!(rig.control.customers().is_empty());
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
async fn usage_of_the_second_under_way_is_on_the_last_invoice() {
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
    assert_eq!(rig.control.invoices(&customer).pop().unwrap()["amount_paid"], 42);
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
    // In another order than the subscription's: an order means nothing.
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

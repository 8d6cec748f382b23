//! What happens when a test advances the clock: renewals, failed payments, trials, expiries.

use stripe_double::{AfterDunning, BillingSettings, Card};

use crate::rig::Rig;
use crate::timeline::{DAY, START, period, starting, subscribe, time};

#[tokio::test]
async fn three_periods_are_each_billed_for_their_own_usage() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!(
        "customer={customer}&items[0][price]={}&items[1][price]={}",
        plans.pro, plans.calls
    );
    let id = rig.client.id("/v1/subscriptions", &items).await;
    let mut ends = Vec::new();
    // The usage above the included 1,000 is another power of ten in each period, so the invoices show which period lost usage.
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
    // 28 February, 31 March, 30 April, each at noon: the anchor stays the 31st after a short month.
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
async fn failed_renewal_is_retried_and_then_ends_the_subscription() {
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
async fn unpaid_first_invoices_and_updates_expire_after_23_hours() {
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
async fn incomplete_checkout_expires() {
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
async fn usage_that_is_metered_late_misses_upcoming_and_final_invoices() {
    let settings = BillingSettings {
        metering_lag_s: 7_200,
        ..BillingSettings::default()
    };
    let rig = Rig::start(starting(settings)).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!(
        "customer={customer}&items[0][price]={}&items[1][price]={}",
        plans.pro, plans.calls
    );
    let id = rig.client.id("/v1/subscriptions", &items).await;
    let (start, end) = period(&rig.control.object(&id).unwrap());
    let upcoming = async || {
        let preview = format!("subscription={id}");
        let preview = rig.client.ok("/v1/invoices/create_preview", &preview).await;
        time(&preview, "total")
    };
    rig.client.meter(&customer, "early", 1_005, start).await.ok().unwrap();
    assert_eq!(upcoming().await, 2_900);
    rig.control.advance_by(7_201);
    assert_eq!(upcoming().await, 2_905);
    // Two hours after this event, the invoice is final.
    rig.control.advance_to(end - 60);
    rig.client.meter(&customer, "late", 70, end - 60).await.ok().unwrap();
    rig.control.advance_to(end + 3_600);
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    assert_eq!((&invoice["status"], time(&invoice, "total")), (&"paid".into(), 2_905));
    rig.control.advance_by(7_200);
    let invoice = rig.control.object(invoice["id"].as_str().unwrap()).unwrap();
    assert_eq!(time(&invoice, "total"), 2_905, "never");
    assert_eq!(rig.control.meter_total(&customer, "api_call", start, end), 1_075);
}

//! Test clocks: customers that live in a time of their own.

use http::Method;
use serde_json::json;
use stripe_double::BillingSettings;

use crate::rig::Rig;
use crate::timeline::{DAY, START, period, starting, subscribe, time};

#[tokio::test]
async fn a_test_clock_moves_its_own_customers_only() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, other) = (rig.catalogue().await, rig.customer().await);
    let began = START - 400 * DAY;
    let clock = rig
        .client
        .ok("/v1/test_helpers/test_clocks", &format!("frozen_time={began}"))
        .await;
    assert_eq!(clock["status"], "ready");
    let path = format!("/v1/test_helpers/test_clocks/{}", clock["id"].as_str().unwrap());
    let body = format!(
        "payment_method=pm_card_visa&test_clock={}",
        clock["id"].as_str().unwrap()
    );
    let customer = rig.client.ok("/v1/customers", &body).await;
    assert_eq!(
        (time(&customer, "created"), &customer["test_clock"]),
        (began, &clock["id"])
    );
    let customer = customer["id"].as_str().unwrap();
    let items = format!(
        "customer={customer}&items[0][price]={}&items[1][price]={}",
        plans.pro, plans.calls
    );
    let subscription = rig.client.ok("/v1/subscriptions", &items).await;
    let id = subscription["id"].as_str().unwrap();
    let (start, end) = period(&subscription);
    assert_eq!((start, &subscription["test_clock"]), (began, &clock["id"]));
    rig.client.meter(customer, "a", 1_100, began + 60).await.ok().unwrap();
    let theirs = subscribe(&rig, &other, &plans.pro).await;

    let advance = async |to: i64| {
        let answer = rig
            .client
            .post(&format!("{path}/advance"), &format!("frozen_time={to}"))
            .await;
        (answer.status.as_u16(), answer.json().unwrap())
    };
    assert_eq!(advance(end + 100 * DAY).await.0, 400, "at most two intervals");
    let (status, advancing) = advance(end + 3_600).await;
    assert_eq!((status, &advancing["status"]), (200, &json!("advancing")));
    assert_eq!(rig.client.get(&path).await["frozen_time"], end + 3_600);
    let renewal = rig.control.invoices(customer).pop().unwrap();
    assert_eq!(
        (&renewal["status"], time(&renewal, "total"), time(&renewal, "created")),
        (&json!("paid"), 3_000, end)
    );
    assert_eq!(
        rig.control.invoices(&other).len(),
        1,
        "the other customer's time is the double's"
    );
    assert_eq!(advance(end).await.0, 400, "never back");
    let kinds = rig.kinds(0);
    assert!(kinds.contains(&"test_helpers.test_clock.ready".to_owned()));

    // The double's time does not move them.
    rig.control.advance_by(90 * DAY);
    assert_eq!(rig.control.invoices(customer).len(), 2);
    assert!(rig.control.invoices(&other).len() > 2);
    let listed = rig.client.get("/v1/customers").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "lists leave them out");

    rig.client
        .send(Method::DELETE, &path, "", "")
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(rig.control.object(id).unwrap()["status"], "canceled");
    assert_eq!(rig.control.object(&theirs).unwrap()["status"], "active");
    assert_eq!(rig.control.violations(), [""; 0]);
}

//! An invoice bills the counted units of its period, with the name of the usage type.

use billing_worker::{reports, webhook::comparison};
use devstack::StripeDoubleOptions;
use serde_json::{Value, json};

use super::rig::{DAY_S, Rig, with_overage};

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_bills_all_that_was_counted_until_its_period_ended() {
    let rig = Rig::with(StripeDoubleOptions::default(), with_overage()).await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let first = rig.period(&ada).await;

    // Some of it is reported in the period, the rest while the invoice is a draft.
    rig.use_units(&ada, "export", 135).await;
    rig.turn_by(DAY_S);
    let reporter = rig.billing.reporter().unwrap();
    let flushed = reports::flush(reporter, ada.account, rig.control().now())
        .await
        .unwrap();
    assert_eq!((flushed.delivered, flushed.open, flushed.parked), (1, 0, 0));
    rig.use_units(&ada, "export", 5).await;
    rig.use_units(&ada, "api_call", 10_000).await;
    rig.end_period(&ada).await;

    // $29 for the month that begins, and five cents for each export past a hundred of the one that ended.
    let shown = rig.get(&ada, "invoices").await;
    let shown = &shown["items"][0];
    assert_eq!(
        (&shown["status"], &shown["total_cents"], &shown["amount_paid_cents"]),
        (&json!("paid"), &json!(3_100), &json!(3_100))
    );
    let invoices = rig.control().invoices(&rig.customers(&ada)[0]);
    let lines = invoices.last().unwrap()["lines"]["data"].as_array().unwrap();
    let line = |line: &Value| {
        let number = |field: &str| line[field].as_i64().unwrap();
        let name = line["description"].as_str().unwrap().to_owned();
        (name, number("quantity"), number("amount"))
    };
    let expected = [
        ("1 × Pro", 1, 2_900),
        ("100 × Pro: export", 100, 0),
        ("40 × Pro: export", 40, 200),
    ];
    assert_eq!(lines.len(), expected.len());
    for ((name, quantity, cents), (begins, expected_quantity, expected_cents)) in lines.iter().map(line).zip(expected) {
        assert!(name.starts_with(begins), "{name}");
        assert_eq!((quantity, cents), (expected_quantity, expected_cents), "{name}");
    }

    // The next invoice bills the next period, in which nothing was used.
    assert_eq!(rig.period(&ada).await.start, first.end);
    rig.end_period(&ada).await;
    assert_eq!(rig.get(&ada, "invoices").await["items"][0]["total_cents"], 2_900);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_on_the_next_invoice_if_no_event_reported_that_its_own_is_final() {
    let rig = Rig::with(StripeDoubleOptions::default(), with_overage()).await;
    let ada = rig.subscriber("ada").await;
    rig.check_out(&ada, "pro").await;
    let look = async || comparison::run(&rig.billing).await.unwrap();
    assert_eq!(look().await.mended, 1);
    rig.use_units(&ada, "export", 135).await;
    // No event comes, and the invoice is final by then.
    rig.turn_to(rig.period(&ada).await.end + 3 * 3_600);
    look().await;
    let reporter = rig.billing.reporter().unwrap();
    let step = async || reports::step(reporter, rig.control().now()).await.unwrap();
    let first = step().await;
    assert_eq!((first.closed, first.carries > 0), (1, true), "{first:?}");
    assert_eq!(step().await.closed, 0);
    let state = rig.state(&ada).await.unwrap();
    assert!(state["periods"][0]["final_at"].is_string(), "{state}");

    rig.listen();
    rig.end_period(&ada).await;
    let invoices = rig.get(&ada, "invoices").await;
    assert_eq!(invoices["items"][0]["total_cents"], 2_900 + 35 * 5, "{invoices}");
    rig.assert_valid();
}

//! What the months of a year cost, and when it is charged.

use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{super::rig::DAY_S, start};

fn seconds(at: &serde_json::Value) -> i64 {
    OffsetDateTime::parse(at.as_str().unwrap(), &Rfc3339)
        .unwrap()
        .unix_timestamp()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_units_of_each_month_are_charged_to_the_cent_after_it() {
    let rig = start("monthly").await;
    let ada = rig.paid_per_year("ada", "pro").await;
    let shown = rig.subscription(&ada).await;
    assert_eq!(
        (&shown["tier"], &shown["interval"], &shown["price_cents"]),
        (&json!("pro"), &json!("year"), &json!(29_000))
    );
    let april = rig.period(&ada).await;
    assert_eq!(
        april.end - april.start,
        30 * DAY_S,
        "the 31st of March to the 30th of April"
    );
    assert_eq!(seconds(&shown["paid_period_start"]), april.start);
    assert_eq!(seconds(&shown["paid_period_end"]) - april.start, 366 * DAY_S);
    let items = &rig.control().subscriptions(&rig.customers(&ada)[0])[0]["items"]["data"];
    assert_eq!(items.as_array().unwrap().len(), 1, "no metered price");

    // 500 calls more than are included at 1.5 cents, and 7 exports at 33.3333 cents.
    rig.turn_by(DAY_S);
    rig.use_units(&ada, "api_call", 1_500).await;
    rig.use_units(&ada, "export", 7).await;
    rig.charge().await;
    let usage = rig.get(&ada, "usage").await;
    assert_eq!(
        (&usage["usage_cents"], &usage["interval"]),
        (&json!(983), &json!("year"))
    );
    rig.turn_to(april.end + 60);
    rig.charge().await;
    assert_eq!(rig.totals(&ada), [29_000], "usage of the last moment may be on its way");
    let may = rig.period(&ada).await;
    assert_eq!((may.start, may.end - may.start), (april.end, 31 * DAY_S));
    assert_eq!(rig.get(&ada, "usage").await["usage"][0]["current_usage"], 0);

    // The included units are there again.
    rig.use_units(&ada, "api_call", 1_001).await;
    rig.end_month(&ada).await;
    assert_eq!(rig.totals(&ada), [29_000, 983, 2], "1.5 cents are 2");
    rig.use_units(&ada, "api_call", 1_000).await;
    rig.end_month(&ada).await;
    assert_eq!(rig.totals(&ada), [29_000, 983, 2], "June used what is included");

    // One invoice has all units of a month, and the period of its lines is the month.
    let invoices = rig.control().invoices(&rig.customers(&ada)[0]);
    let lines = invoices[1]["lines"]["data"].as_array().unwrap();
    let mut lines: Vec<_> = lines
        .iter()
        .map(|line| {
            let period = &line["period"];
            (
                line["description"].as_str().unwrap(),
                line["amount"].as_i64().unwrap(),
                (period["start"].as_i64().unwrap(), period["end"].as_i64().unwrap()),
            )
        })
        .collect();
    lines.sort_unstable();
    let month = (april.start, april.end);
    assert_eq!(
        lines,
        [
            ("Usage: 1500 units of api_call", 750, month),
            ("Usage: 7 units of export", 233, month)
        ]
    );

    // An export that arrives late costs what is missing to the whole. Calls that were wrong are credited.
    rig.admitted(&ada, april, &[("export", 1)]).await;
    rig.correct(&ada, april, "api_call", 200).await;
    rig.charge().await;
    rig.turn_by(3_700);
    rig.charge().await;
    rig.settle().await;
    assert_eq!(rig.totals(&ada), [29_000, 983, 2, 34]);
    assert_eq!(
        rig.explained().await,
        [29_000 + 683 + 2 + 34, 29_000 + 983 + 2 + 34, 300, 0]
    );
    assert_eq!(rig.control().meter_events().len(), 0, "no meter counts them");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_of_the_year_all_its_months_are_charged_at_once() {
    let rig = start("year_end").await;
    let ada = rig.paid_per_year("ada", "pro").await;
    let year_end = seconds(&rig.subscription(&ada).await["paid_period_end"]);
    let mut months = 0;
    while rig.period(&ada).await.end < year_end {
        // 100 calls more than are included in every month.
        rig.use_units(&ada, "api_call", 1_100).await;
        rig.end_month(&ada).await;
        months += 1;
    }
    assert_eq!(months, 11);
    rig.use_units(&ada, "api_call", 1_100).await;
    assert_eq!(rig.totals(&ada), [29_000]);
    assert_eq!(rig.explained().await, [29_000 + 12 * 150, 29_000, 0, 12 * 150]);
    rig.end_month(&ada).await;
    let mut totals = rig.totals(&ada);
    totals.sort_unstable();
    assert_eq!(totals, [12 * 150, 29_000, 29_000]);
    assert_eq!(
        rig.explained().await,
        [2 * 29_000 + 12 * 150, 2 * 29_000 + 12 * 150, 0, 0]
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_subscription_charges_what_is_open() {
    for (usage_billing, ends, charged) in [
        ("monthly", json!({ "when": "now" }), 75),
        ("year_end", json!({ "when": "now" }), 150 + 75),
        ("year_end", json!({}), 150 + 75),
    ] {
        let rig = start(usage_billing).await;
        let ada = rig.paid_per_year("ada", "pro").await;
        rig.use_units(&ada, "api_call", 1_100).await;
        rig.end_month(&ada).await;
        let first = if usage_billing == "monthly" { 150 } else { 0 };
        rig.turn_by(5 * DAY_S);
        rig.use_units(&ada, "api_call", 1_050).await;
        let year_end = seconds(&rig.subscription(&ada).await["paid_period_end"]);
        rig.post(&ada, "cancel", ends.clone()).await.ok().unwrap();
        if ends == json!({}) {
            // Nothing tells of the months until then but the clock.
            rig.turn_to(year_end + 60);
        }
        rig.settle().await;
        assert_eq!(rig.subscription(&ada).await["tier"], "free");
        for _ in 0..2 {
            rig.turn_by(3_700);
            rig.charge().await;
        }
        rig.settle().await;
        let sum: i64 = rig.totals(&ada).iter().sum();
        assert_eq!(sum, 29_000 + first + charged, "{usage_billing} {ends}");
        let [owed, invoiced, credited, pending] = rig.explained().await;
        assert_eq!(
            (owed, invoiced, credited, pending),
            (sum, sum, 0, 0),
            "{usage_billing} {ends}"
        );
        rig.assert_valid();
    }
}

/// An outage of the worker, or a clock that is turned: no event tells of the months.
#[tokio::test(flavor = "multi_thread")]
async fn a_year_is_owed_once_although_nobody_saw_its_months() {
    let rig = start("monthly").await;
    let ada = rig.paid_per_year("ada", "pro").await;
    rig.use_units(&ada, "api_call", 1_100).await;
    rig.end_month(&ada).await;
    let year_end = seconds(&rig.subscription(&ada).await["paid_period_end"]);
    rig.turn_to(year_end + 40 * DAY_S);
    rig.settle().await;
    for _ in 0..3 {
        rig.charge().await;
        rig.turn_by(3_700);
        rig.settle().await;
    }
    rig.turn_by(5 * DAY_S);
    rig.settle().await;
    let sum = 2 * 29_000 + 150;
    assert_eq!(rig.explained().await, [sum, sum, 0, 0]);
    rig.assert_valid();
}

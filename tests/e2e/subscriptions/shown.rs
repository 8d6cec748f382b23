//! What is previewed and shown is what is charged.

use http::Method;
use serde_json::{Value, json};

use super::{
    rig::{DAY_S, Rig, Subscriber},
    upgrades::start,
};

async fn preview(rig: &Rig, who: &Subscriber) -> Value {
    let asked = json!({ "tier": "enterprise", "preview": true });
    rig.post(who, "upgrade", asked).await.ok().unwrap()
}

/// Upgrades for the price of a preview. Returns the status and the name of the problem.
async fn accept(rig: &Rig, who: &Subscriber, preview: &Value) -> (u16, Value) {
    let accepted = json!({ "tier": "enterprise", "proration_date": preview["proration_date"] });
    let answer = rig.post(who, "upgrade", accepted).await;
    (answer.status.as_u16(), answer.json().unwrap()["error"].clone())
}

/// An item that waits for the customer's next invoice.
async fn add_item(rig: &Rig, who: &Subscriber, cents: i64) {
    let customer = rig.customers(who).remove(0);
    let form = format!("customer={customer}&amount={cents}&currency=usd");
    rig.call_stripe(Method::POST, "/v1/invoiceitems", &form).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preview_is_the_amount_that_is_charged() {
    let rig = start().await;
    for (n, credit) in [None, Some(-700), Some(1_300)].into_iter().enumerate() {
        let ada = rig.subscribed(&format!("ada-{n}"), "pro").await;
        let pro = rig.period(&ada).await;
        rig.turn_by(7 * DAY_S + 12_345);
        if let Some(cents) = credit {
            add_item(&rig, &ada, cents).await;
        }
        // Neither reported usage nor usage that comes between is a part of it.
        rig.admitted(&ada, pro, &[("api_call", 1_500)]).await;
        let preview = preview(&rig, &ada).await;
        rig.turn_by(300);
        rig.admitted(&ada, pro, &[("export", 7)]).await;
        assert_eq!(accept(&rig, &ada, &preview).await, (200, Value::Null));
        let charged = &rig.get(&ada, "invoices").await["items"][0];
        assert_eq!(
            (&charged["amount_paid_cents"], &charged["status"]),
            (&preview["amount_due_cents"], &json!("paid")),
            "{credit:?}"
        );
        let difference = preview["amount_due_cents"].as_i64().unwrap() - credit.unwrap_or(0);
        assert!((15_000..27_000).contains(&difference), "{difference}");
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_never_costs_something_else_than_its_preview() {
    let rig = start().await;
    let ada = rig.subscribed("ada", "pro").await;
    rig.turn_by(DAY_S);
    let before = rig.state(&ada).await.unwrap();
    let first = preview(&rig, &ada).await;
    add_item(&rig, &ada, 500).await;
    assert_eq!(accept(&rig, &ada, &first).await, (409, json!("preview_outdated")));
    let second = preview(&rig, &ada).await;
    rig.turn_by(601);
    assert_eq!(accept(&rig, &ada, &second).await, (422, json!("preview_expired")));
    // Nobody was shown the price of this second.
    let unknown = json!({ "proration_date": "2027-01-15T08:00:00Z" });
    assert_eq!(accept(&rig, &ada, &unknown).await, (422, json!("preview_expired")));
    let both = json!({ "tier": "enterprise", "proration_date": second["proration_date"], "preview": true });
    assert_eq!(rig.post(&ada, "upgrade", both).await.status.as_u16(), 400);
    assert_eq!(rig.state(&ada).await.unwrap(), before);
    let third = preview(&rig, &ada).await;
    assert_eq!(accept(&rig, &ada, &third).await, (200, Value::Null));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_after_an_upgrade_is_what_the_invoices_add_up_to() {
    let rig = start().await;
    let ada = rig.subscribed("ada", "pro").await;
    let pro = rig.period(&ada).await;
    rig.turn_by(DAY_S);
    rig.upgrade_to(&ada, "enterprise").await;
    let enterprise = rig.segment(&ada).await;
    rig.admitted(&ada, pro, &[("api_call", 1_500), ("export", 7)]).await;
    rig.admitted(&ada, enterprise, &[("api_call", 5_100), ("export", 10)])
        .await;
    let shown = rig.get(&ada, "usage").await;
    let segments = shown["segments"].as_array().unwrap();
    let plans: Vec<_> = segments.iter().map(|segment| &segment["plan"]).collect();
    assert_eq!(plans, ["pro", "enterprise"]);
    assert_eq!(segments[0]["end"], segments[1]["start"]);
    let billed = |segment: &Value| -> Vec<(Value, i64, i64)> {
        let usage = segment["usage"].as_array().unwrap().iter();
        let number = |one: &Value, field: &str| one[field].as_i64().unwrap();
        let billed = usage.map(|one| {
            (
                one["usage_type"].clone(),
                number(one, "billed_units"),
                number(one, "amount_cents"),
            )
        });
        billed.collect()
    };
    assert_eq!(
        billed(&segments[0]),
        [(json!("api_call"), 500, 750), (json!("export"), 7, 233)]
    );
    assert_eq!(billed(&segments[1]), [(json!("api_call"), 100, 100)]);
    assert_eq!(shown["usage_cents"], 750 + 233 + 100);
    // Calls are billed: the segment that runs. Exports are limited now: the whole period, without those that Pro billed.
    let usage: Vec<_> = shown["usage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["current_usage"], &one["overage"]))
        .collect();
    assert_eq!(usage[0], (&json!(5_100), &json!(100)));
    assert_eq!(usage[1], (&json!(10), &json!(0)));

    rig.end_period(&ada).await;
    let charged = [rig.charged(&ada, "Pro"), rig.charged(&ada, "Enterprise")].concat();
    let charged: i64 = charged.iter().map(|(_, cents)| cents).sum();
    assert_eq!(shown["usage_cents"], charged);
    let next = rig.get(&ada, "usage").await;
    assert_eq!(
        (&next["usage_cents"], next["segments"].as_array().unwrap().len()),
        (&json!(0), 1)
    );
    rig.assert_valid();
}

//! A plan's price changes while accounts have the plan.

use std::collections::BTreeMap;

use billing_worker::{stripe::catalogue, subscriptions::used_prices};
use http::Method;
use schema::Catalogue;
use serde_json::{Value, json};

use super::{
    planned::{is, planned},
    rig::Rig,
};

/// The built-in catalogue with other prices.
pub(super) fn priced(pro_cents: i64, enterprise_cents: i64) -> Catalogue {
    let text = include_str!("../../../schema/plans.toml")
        .replace("price_cents = 2900\n", &format!("price_cents = {pro_cents}\n"))
        .replace("price_cents = 29900", &format!("price_cents = {enterprise_cents}"));
    Catalogue::parse(&text).unwrap()
}

/// Whether each price of a plan is active: by plan and cents.
async fn prices(rig: &Rig) -> BTreeMap<(String, i64), bool> {
    let listed = rig.call_stripe(Method::GET, "/v1/prices?limit=100", "").await;
    let of = |price: &Value| {
        let plan = price["metadata"]["trendit_plan"].as_str().unwrap().to_owned();
        ((plan, price["unit_amount"].as_i64().unwrap()), price["active"] == true)
    };
    listed["data"].as_array().unwrap().iter().map(of).collect()
}

async fn deactivate_all(rig: &Rig) {
    let listed = rig.call_stripe(Method::GET, "/v1/prices?limit=100", "").await;
    for price in listed["data"].as_array().unwrap() {
        let path = format!("/v1/prices/{}", price["id"].as_str().unwrap());
        rig.call_stripe(Method::POST, &path, "active=false").await;
    }
}

/// Deactivates what is not in use, as `stripe sync --prune` does.
async fn prune(rig: &Rig) {
    let (stripe, of) = (rig.billing.stripe().unwrap(), &rig.billing.admin.catalogue);
    let in_use = used_prices::in_use(&rig.pool).await.unwrap();
    let found = catalogue::find(stripe, of, in_use).await.unwrap();
    let unused = catalogue::unused(of, &found);
    catalogue::apply(stripe, of, &unused, found).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_to_a_plan_whose_price_changed_works() {
    let mut rig = Rig::start().await;
    rig.listen();
    let (ada, ben) = (
        rig.subscribed("ada", "enterprise").await,
        rig.subscribed("ben", "enterprise").await,
    );
    rig.roll_out(priced(3_900, 39_900)).await;
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    assert_eq!(planned(&rig, &ada).await, is("enterprise", true, Some("pro")));
    // Earlier versions of the service deactivated the prices that they replaced.
    deactivate_all(&rig).await;
    rig.sync().await;
    deactivate_all(&rig).await;
    let refused = rig.post(&ben, "upgrade", json!({ "tier": "pro" })).await;
    assert_eq!(refused.json().unwrap()["error"], "prices_missing", "nothing is sold");
    rig.sync().await;
    rig.post(&ben, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    assert_eq!(planned(&rig, &ben).await, is("enterprise", true, Some("pro")));
    rig.end_period(&ada).await;
    for who in [&ada, &ben] {
        assert_eq!(planned(&rig, who).await, is("pro", false, None));
        let invoices = rig.get(who, "invoices").await;
        assert_eq!(invoices["items"][0]["total_cents"], 3_900);
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_price_that_was_deactivated_can_still_be_part_of_a_planned_change() {
    let mut rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "enterprise").await;
    rig.roll_out(priced(2_900, 39_900)).await;
    let item = rig.state(&ada).await.unwrap()["items"][0]["price_id"].clone();
    let path = format!("/v1/prices/{}", item.as_str().unwrap());
    rig.call_stripe(Method::POST, &path, "active=false").await;
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    assert_eq!(planned(&rig, &ada).await, is("enterprise", true, Some("pro")));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_deactivates_no_price_in_use() {
    let mut rig = Rig::start().await;
    rig.listen();
    let (_ada, ben, cyd) = (
        rig.subscribed("ada", "pro").await,
        rig.subscribed("ben", "enterprise").await,
        rig.subscriber("cyd").await,
    );
    let is_active = |active: [(&str, i64, bool); 5]| {
        let of = |(plan, cents, active): (&str, i64, bool)| ((plan.to_owned(), cents), active);
        active.into_iter().map(of).collect::<BTreeMap<_, _>>()
    };
    rig.roll_out(priced(3_900, 29_900)).await;
    rig.post(&ben, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    rig.roll_out(priced(4_900, 29_900)).await;
    let checkout = rig
        .post(&cyd, "create-checkout-session", json!({ "tier": "pro" }))
        .await;
    checkout.ok().unwrap();
    rig.roll_out(priced(5_900, 29_900)).await;
    let all = [
        ("pro", 2_900, true),
        ("pro", 3_900, true),
        ("pro", 4_900, true),
        ("pro", 5_900, true),
        ("enterprise", 29_900, true),
    ];
    assert_eq!(prices(&rig).await, is_active(all));
    prune(&rig).await;
    assert_eq!(
        prices(&rig).await,
        is_active(all),
        "an item, a planned change and a checkout"
    );

    // Ben keeps his plan, and nothing else has the price.
    rig.post(&ben, "resume", json!({})).await.ok().unwrap();
    prune(&rig).await;
    let mut pruned = all;
    pruned[1].2 = false;
    assert_eq!(prices(&rig).await, is_active(pruned));
    // Whoever deactivates a price that is in use: it is activated again.
    deactivate_all(&rig).await;
    rig.sync().await;
    assert_eq!(prices(&rig).await, is_active(pruned));
    rig.assert_valid();
}

//! A plan's price changes while accounts have the plan.

use std::{collections::BTreeMap, mem, sync::Arc};

use billing_worker::{
    accounts::plans,
    subscriptions::{refresh, selling::Unused},
    webhook::comparison,
};
use devstack::StripeDoubleOptions;
use http::Method;
use schema::Catalogue;
use serde_json::{Value, json};

use super::{
    planned::{is, planned},
    rig::{Rig, Subscriber},
};

/// The built-in catalogue with other prices.
pub(super) fn priced(pro_cents: i64, enterprise_cents: i64) -> Catalogue {
    let text = include_str!("../../../schema/plans.toml")
        .replace("month = 2900 }", &format!("month = {pro_cents} }}"))
        .replace("month = 29900 }", &format!("month = {enterprise_cents} }}"));
    Catalogue::parse(&text).unwrap()
}

/// The built-in catalogue with another Pro plan: its price, its calls, and exports that are billed past `included`.
pub(super) fn pro(cents: i64, calls: i64, included: i64, micros: i64) -> Catalogue {
    let text = include_str!("../../../schema/plans.toml")
        .replace("month = 2900 }", &format!("month = {cents} }}"))
        .replace(
            "usage.api_call = { limit = 10_000 }",
            &format!("usage.api_call = {{ limit = {calls} }}"),
        )
        .replace(
            "usage.export = { limit = 100 }",
            &format!("usage.export = {{ limit = {included}, mode = \"overage\", unit_price_micros = {micros} }}"),
        );
    Catalogue::parse(&text).unwrap()
}

/// As the release before versions left it: nothing is stored about versions, and prices in Stripe do not name them. Then a worker
/// starts, and reads the subscriptions of so many accounts again.
pub(super) async fn as_before_versions(rig: &Rig, accounts: usize) {
    for statement in [
        "update subscriptions set version_id = null, then_version_id = null",
        "update billing_periods set version_id = null",
        "delete from plan_versions",
    ] {
        sqlx::query(statement).execute(&rig.pool).await.unwrap();
    }
    for price in listed(rig).await {
        let path = format!("/v1/prices/{}", price["id"].as_str().unwrap());
        rig.call_stripe(Method::POST, &path, "metadata[trendit_version]=").await;
    }
    plans::sync(&rig.billing.admin, rig.billing.clock.now_s())
        .await
        .unwrap();
    assert_eq!(comparison::find_versions(&rig.billing).await.unwrap(), accounts);
}

/// What an account is shown: version, price, calls, included exports, and the price of a further one.
pub(super) async fn shown(rig: &Rig, who: &Subscriber) -> [i64; 5] {
    let subscription = rig.subscription(who).await;
    let limit = |usage_type: &str, field: &str| {
        let mut limits = subscription["limits"].as_array().unwrap().iter();
        limits.find(|limit| limit["usage_type"] == usage_type).unwrap()[field].clone()
    };
    [
        subscription["plan_version"].clone(),
        subscription["price_cents"].clone(),
        limit("api_call", "limit"),
        limit("export", "limit"),
        limit("export", "unit_price_micros"),
    ]
    .map(|value| value.as_i64().unwrap_or(-1))
}

/// Exports past what is included, in the running period.
async fn overage(rig: &Rig, who: &Subscriber) -> Value {
    let usage = rig.get(who, "usage").await;
    let mut usage = usage["usage"].as_array().unwrap().iter();
    usage.find(|one| one["usage_type"] == "export").unwrap()["overage"].clone()
}

pub(super) async fn last_invoice(rig: &Rig, who: &Subscriber) -> Value {
    rig.get(who, "invoices").await["items"][0]["total_cents"].clone()
}

/// Pro with 10,000 calls and 100 exports for $29, and Ada, who has it since an hour.
pub(super) async fn old_subscriber() -> (Rig, Subscriber) {
    let options = StripeDoubleOptions {
        start_at: Some(1_800_000_010),
        ..StripeDoubleOptions::default()
    };
    let rig = Rig::with(options, pro(2_900, 10_000, 100, 50_000)).await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    rig.turn_by(3_600);
    (rig, ada)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_subscriber_keeps_price_and_limits_after_a_price_change() {
    let (mut rig, ada) = old_subscriber().await;
    rig.roll_out(pro(3_900, 5_000, 500, 40_000)).await;
    let ben = rig.subscribed("ben", "pro").await;
    rig.turn_by(3_600);
    refresh::refresh(&rig.billing, ada.account).await.unwrap();
    assert_eq!(shown(&rig, &ada).await, [1, 2_900, 10_000, 100, 50_000]);
    assert_eq!(shown(&rig, &ben).await, [2, 3_900, 5_000, 500, 40_000]);
    for (who, past) in [(&ada, 500), (&ben, 100)] {
        rig.use_units(who, "export", 600).await;
        assert_eq!(overage(&rig, who).await, past);
    }
    // Ben's period ends an hour after Ada's.
    let (ada_end, ben_end) = (rig.period(&ada).await.end, rig.period(&ben).await.end);
    for at in [ada_end + 60, ben_end + 60, ben_end + 2 * 3_600] {
        rig.turn_to(at);
        rig.settle().await;
    }
    assert_eq!(last_invoice(&rig, &ada).await, 2_900 + 500 * 5);
    assert_eq!(last_invoice(&rig, &ben).await, 3_900 + 100 * 4);
    // A version that was current before is current again.
    rig.roll_out(pro(2_900, 10_000, 100, 50_000)).await;
    let cyd = rig.subscribed("cyd", "pro").await;
    assert_eq!(shown(&rig, &cyd).await, [1, 2_900, 10_000, 100, 50_000]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_no_price_follows_make_a_version_too() {
    let (mut rig, ada) = old_subscriber().await;
    rig.roll_out(pro(2_900, 5_000, 100, 50_000)).await;
    let ben = rig.subscribed("ben", "pro").await;
    refresh::refresh(&rig.billing, ada.account).await.unwrap();
    assert_eq!(shown(&rig, &ada).await, [1, 2_900, 10_000, 100, 50_000]);
    assert_eq!(shown(&rig, &ben).await, [2, 2_900, 5_000, 100, 50_000]);
    // A larger plan, and back: the account gets the current version.
    rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    rig.end_period(&ada).await;
    assert_eq!(shown(&rig, &ada).await, [2, 2_900, 5_000, 100, 50_000]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_from_before_versions_get_the_terms_of_their_prices() {
    let (mut rig, ada) = old_subscriber().await;
    rig.roll_out(pro(3_900, 5_000, 500, 40_000)).await;
    let ben = rig.subscribed("ben", "pro").await;
    as_before_versions(&rig, 2).await;
    // Stripe does not know how many calls Ada had: those that were stored last.
    assert_eq!(shown(&rig, &ada).await, [2, 2_900, 5_000, 100, 50_000]);
    assert_eq!(shown(&rig, &ben).await, [1, 3_900, 5_000, 500, 40_000]);
    let origins: Vec<(i32, String, bool)> =
        sqlx::query_as("select version, origin, is_current from plan_versions where plan_id = 'pro' order by version")
            .fetch_all(&rig.pool)
            .await
            .unwrap();
    let origin = |version: i32, origin: &str, is_current: bool| (version, origin.to_owned(), is_current);
    assert_eq!(origins, [origin(1, "stored", true), origin(2, "stripe", false)]);
    // The prices are known now: nothing is made again.
    let before = listed(&rig).await;
    rig.sync().await;
    assert_eq!(listed(&rig).await, before);
    // What was stored, and a catalogue that changes with the release.
    rig.billing.admin.catalogue = Arc::new(pro(4_900, 7_000, 500, 40_000));
    as_before_versions(&rig, 2).await;
    assert_eq!(shown(&rig, &ben).await, [1, 3_900, 5_000, 500, 40_000]);
    assert_eq!(shown(&rig, &ada).await, [3, 2_900, 5_000, 100, 50_000]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_the_catalogue_before_sells_the_version_that_it_shows() {
    let (mut rig, _) = old_subscriber().await;
    // An operator runs `stripe sync` with the new file, and restarts the workers afterwards.
    let before = mem::replace(
        &mut rig.billing.admin.catalogue,
        Arc::new(pro(3_900, 5_000, 500, 40_000)),
    );
    rig.sync().await;
    rig.billing.admin.catalogue = before;
    let ben = rig.subscribed("ben", "pro").await;
    assert_eq!(shown(&rig, &ben).await, [1, 2_900, 10_000, 100, 50_000]);
    rig.roll_out(pro(3_900, 5_000, 500, 40_000)).await;
    let cyd = rig.subscribed("cyd", "pro").await;
    assert_eq!(shown(&rig, &cyd).await, [2, 3_900, 5_000, 500, 40_000]);
    // Until `stripe sync` has run with the catalogue, nobody pays another price than the one that is shown.
    rig.billing.admin.catalogue = Arc::new(pro(5_900, 5_000, 500, 40_000));
    plans::sync(&rig.billing.admin, rig.billing.clock.now_s())
        .await
        .unwrap();
    rig.serve_again().await;
    let dan = rig.subscriber("dan").await;
    let refused = rig
        .post(&dan, "create-checkout-session", json!({ "tier": "pro" }))
        .await;
    assert_eq!(refused.json().unwrap()["error"], "prices_missing");
    rig.assert_valid();
}

/// All prices in Stripe.
async fn listed(rig: &Rig) -> Vec<Value> {
    let listed = rig.call_stripe(Method::GET, "/v1/prices?limit=100", "").await;
    listed["data"].as_array().unwrap().clone()
}

/// Whether each price of a plan is active: by plan and cents.
async fn prices(rig: &Rig) -> BTreeMap<(String, i64), bool> {
    let of = |price: Value| {
        let plan = price["metadata"]["trendit_plan"].as_str().unwrap().to_owned();
        ((plan, price["unit_amount"].as_i64().unwrap()), price["active"] == true)
    };
    listed(rig).await.into_iter().map(of).collect()
}

async fn deactivate_all(rig: &Rig) {
    for price in listed(rig).await {
        let path = format!("/v1/prices/{}", price["id"].as_str().unwrap());
        rig.call_stripe(Method::POST, &path, "active=false").await;
    }
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
    assert_eq!(refused.json().unwrap()["error"], "price_inactive", "nothing is sold");
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
    rig.sync_with(Unused::Prune).await;
    assert_eq!(
        prices(&rig).await,
        is_active(all),
        "an item, a planned change and a checkout"
    );

    // Ben keeps his plan, and nothing else has the price.
    rig.post(&ben, "resume", json!({})).await.ok().unwrap();
    rig.sync_with(Unused::Prune).await;
    let mut pruned = all;
    pruned[1].2 = false;
    assert_eq!(prices(&rig).await, is_active(pruned));
    // Whoever deactivates a price that is in use: it is activated again.
    deactivate_all(&rig).await;
    rig.sync().await;
    assert_eq!(prices(&rig).await, is_active(pruned));
    rig.assert_valid();
}

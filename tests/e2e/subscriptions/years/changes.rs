//! Changes of a subscription that is paid per year, and between months and years.

use billing_worker::subscriptions::{
    migrate::{Action, Outcome, migrate},
    migration::{MigrateWhen, Migration},
};
use http::Method;
use schema::{Catalogue, Interval};
use serde_json::{Value, json};

use super::{
    super::rig::{DAY_S, Rig, Subscriber},
    PLANS, asked, start,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_within_the_year_prorates_the_year_and_units_keep_their_prices() {
    let rig = start("monthly").await;
    let ada = rig.paid_per_year("ada", "pro").await;
    rig.use_units(&ada, "api_call", 1_200).await;
    rig.end_month(&ada).await;
    rig.turn_by(10 * DAY_S);
    let pro = rig.segment(&ada).await;
    rig.admitted(&ada, pro, &[("api_call", 1_400), ("export", 3)]).await;
    let body = json!({ "tier": "enterprise", "preview": true });
    let preview = rig.post(&ada, "upgrade", body).await.ok().unwrap();
    assert_eq!(preview["interval"], "year");
    let due = preview["amount_due_cents"].as_i64().unwrap();
    // About 326 of 366 days of $2,700.
    assert!((238_000..243_000).contains(&due), "{preview}");
    let at = &preview["proration_date"];
    let body = json!({ "tier": "enterprise", "proration_date": at });
    let upgraded = rig.post(&ada, "upgrade", body).await.ok().unwrap();
    assert_eq!(
        (&upgraded["tier"], &upgraded["interval"], &upgraded["price_cents"]),
        (&json!("enterprise"), &json!("year"), &json!(299_000))
    );
    rig.settle().await;
    let enterprise = rig.segment(&ada).await;
    assert!(enterprise.start > pro.start && enterprise.end == pro.end);
    // Earlier usage does not count towards what Enterprise includes.
    rig.turn_by(DAY_S);
    rig.admitted(&ada, enterprise, &[("api_call", 5_100)]).await;
    rig.admitted(&ada, pro, &[("export", 1)]).await;
    rig.end_month(&ada).await;
    assert_eq!(rig.totals(&ada), [29_000, 300, due, 600 + 133 + 100]);
    let sum = 29_000 + 300 + due + 833;
    assert_eq!(rig.explained().await, [sum, sum, 0, 0]);
    // A smaller plan begins with the next year.
    let planned = rig.post(&ada, "upgrade", json!({ "tier": "flat" })).await.ok().unwrap();
    assert_eq!(
        (&planned["then_tier"], &planned["ends_at"]),
        (&json!("flat"), &planned["paid_period_end"])
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_a_person_makes_in_stripe_has_its_own_prices_from_its_event_on() {
    let rig = start("monthly").await;
    let ada = rig.paid_per_year("ada", "pro").await;
    rig.turn_by(10 * DAY_S);
    let pro = rig.segment(&ada).await;
    rig.admitted(&ada, pro, &[("api_call", 1_400), ("export", 3)]).await;
    let subscription = rig.control().subscriptions(&rig.customers(&ada)[0]).remove(0);
    let prices = "/v1/prices?lookup_keys[]=trendit_enterprise-year";
    let prices = rig.call_stripe(Method::GET, prices, "").await;
    let form = format!(
        "items[0][id]={}&items[0][price]={}&proration_behavior=always_invoice",
        subscription["items"]["data"][0]["id"].as_str().unwrap(),
        prices["data"][0]["id"].as_str().unwrap()
    );
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    rig.call_stripe(Method::POST, &path, &form).await;
    rig.settle().await;
    let shown = rig.subscription(&ada).await;
    assert_eq!(
        (&shown["tier"], &shown["interval"]),
        (&json!("enterprise"), &json!("year"))
    );
    let enterprise = rig.segment(&ada).await;
    assert!(enterprise.start > pro.start && enterprise.end == pro.end);
    rig.turn_by(DAY_S);
    rig.admitted(&ada, enterprise, &[("api_call", 5_100)]).await;
    // This was admitted before, and is stored late.
    rig.admitted(&ada, pro, &[("export", 1)]).await;
    rig.end_month(&ada).await;
    let totals = rig.totals(&ada);
    // About 356 of 366 days of $2,700.
    assert!((260_000..265_000).contains(&totals[1]), "{totals:?}");
    assert_eq!((totals[0], totals[2], totals.len()), (29_000, 600 + 133 + 100, 3));
    let sum: i64 = totals.iter().sum();
    assert_eq!(rig.explained().await, [sum, sum, 0, 0]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_sold_for_the_intervals_of_its_prices() {
    let rig = start("monthly").await;
    let ada = rig.subscriber("ada").await;
    let plans = rig.get(&ada, "plans").await;
    let plans = plans["plans"].as_array().unwrap();
    let plan = |id: &str| plans.iter().find(|plan| plan["id"] == id).unwrap();
    assert_eq!(
        (&plan("pro")["prices"], &plan("pro")["usage_billing"]),
        (
            &json!({ "month": { "usd": 2_900 }, "year": { "usd": 29_000 } }),
            &json!("monthly")
        )
    );
    assert_eq!(plan("team")["prices"], json!({ "month": { "usd": 9_900 } }));
    assert_eq!(plan("team")["usage_billing"], Value::Null);
    for path in ["create-checkout-session", "subscriptions"] {
        let (status, error, message) = asked(&rig, &ada, path, json!({ "tier": "team", "interval": "year" })).await;
        assert_eq!((status, error.as_str()), (422, "interval_not_offered"), "{path}");
        assert!(
            message.contains("`team`") && message.contains("can be: month"),
            "{message}"
        );
        let (status, _, message) = asked(&rig, &ada, path, json!({ "tier": "team", "interval": "week" })).await;
        assert_eq!(status, 400, "{path}");
        assert!(message.contains("interval"), "{message}");
    }
    // A running interval stays, also for a change.
    let ada = rig.paid_per_year("ben", "pro").await;
    for when in [
        json!({ "tier": "team" }),
        json!({ "tier": "team", "when": "period_end" }),
    ] {
        let (status, error, _) = asked(&rig, &ada, "upgrade", when).await;
        assert_eq!((status, error.as_str()), (422, "interval_not_offered"));
    }
    rig.assert_valid();
}

async fn flat(rig: &Rig, name: &str) -> Subscriber {
    rig.subscribed(name, "flat").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interval_changes_with_a_period_and_only_where_no_units_are_billed() {
    let rig = start("monthly").await;
    let (ada, ben) = (flat(&rig, "ada").await, rig.subscribed("ben", "pro").await);
    let refused = async |who: &Subscriber, body: Value, part: &str| {
        for preview in [true, false] {
            let mut body = body.clone();
            body["preview"] = json!(preview);
            let (status, error, message) = asked(&rig, who, "upgrade", body.clone()).await;
            assert_eq!((status, error.as_str()), (409, "interval_change_refused"), "{body}");
            assert!(
                message.contains(part) && message.contains("nothing was changed"),
                "{message}"
            );
        }
    };
    let now = json!({ "tier": "wide", "interval": "year" });
    refused(&ada, now, "\"when\": \"period_end\"").await;
    // Another time would not help either.
    refused(
        &ben,
        json!({ "tier": "pro", "interval": "year" }),
        "POST /billing/cancel",
    )
    .await;
    for (who, tier) in [(&ada, "pro"), (&ben, "pro"), (&ben, "wide")] {
        let body = json!({ "tier": tier, "interval": "year", "when": "period_end" });
        refused(who, body, "POST /billing/cancel").await;
    }
    assert_eq!(rig.subscription(&ben).await["ends_at"], Value::Null);

    let body = json!({ "tier": "flat", "interval": "year", "when": "period_end" });
    let planned = rig.post(&ada, "upgrade", body).await.ok().unwrap();
    assert_eq!(
        (&planned["interval"], &planned["then_tier"], &planned["ends_at"]),
        (&json!("month"), &json!("flat"), &planned["period_end"])
    );
    rig.end_period(&ada).await;
    let yearly = rig.subscription(&ada).await;
    assert_eq!((&yearly["tier"], &yearly["interval"]), (&json!("flat"), &json!("year")));
    assert_eq!(rig.totals(&ada), [1_000, 10_000]);
    let month = rig.period(&ada).await;
    assert!(month.end - month.start <= 31 * DAY_S);
    rig.end_month(&ada).await;
    assert_eq!(rig.period(&ada).await.start, month.end);
    assert_eq!(rig.totals(&ada), [1_000, 10_000]);
    let [owed, invoiced, ..] = rig.explained().await;
    assert_eq!(owed, invoiced);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_keeps_the_interval_and_skips_who_pays_for_another() {
    let mut rig = start("monthly").await;
    let (ada, ben) = (
        rig.paid_per_year("ada", "pro").await,
        rig.subscribed("ben", "pro").await,
    );
    let catalogue =
        |prices: &str| Catalogue::parse(&PLANS.replacen("{ month = 2900, year = 29000 }", prices, 1)).unwrap();
    let find = async |rig: &Rig, to: &str| {
        Migration::find(&rig.pool, "pro@1", to, MigrateWhen::PeriodEnd, rig.control().now())
            .await
            .unwrap()
    };
    rig.roll_out(catalogue("{ month = 3900 }")).await;
    let monthly = find(&rig, "pro@2").await;
    for action in [Action::DryRun, Action::Make] {
        let skipped = migrate(&rig.billing, ada.account, &monthly, action).await;
        assert_eq!(
            (skipped.outcome, skipped.interval),
            (Outcome::Skipped, Some(Interval::Year))
        );
        assert_eq!(skipped.reason.as_deref(), Some("pro@2 has no price per year"));
    }
    assert_eq!(rig.subscription(&ada).await["then_tier"], Value::Null);

    rig.roll_out(catalogue("{ month = 3900, year = 39000 }")).await;
    let both = find(&rig, "pro@3").await;
    for (who, interval, now, then) in [
        (&ada, Interval::Year, 29_000, 39_000),
        (&ben, Interval::Month, 2_900, 3_900),
    ] {
        for (action, outcome) in [
            (Action::DryRun, Outcome::WouldMigrate),
            (Action::Make, Outcome::Migrated),
        ] {
            let made = migrate(&rig.billing, who.account, &both, action).await;
            assert_eq!((made.outcome, made.interval), (outcome, Some(interval)), "{made:?}");
            assert_eq!((made.price_cents_now, made.price_cents_then), (now, then));
        }
        let shown = rig.subscription(who).await;
        assert_eq!(
            (&shown["then_tier"], &shown["interval"], &shown["ends_at"]),
            (&json!("pro"), &json!(interval.as_str()), &shown["paid_period_end"])
        );
    }
    rig.assert_valid();
}

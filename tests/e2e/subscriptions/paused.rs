//! Subscriptions whose invoices a person stopped collecting in Stripe's dashboard.

use billing_worker::{subscriptions::paused::PausedCollection, webhook::comparison};
use http::Method;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::rig::{DAY_S, Rig, Subscriber};

/// Changes what Stripe does with the invoices of the account's subscription.
async fn collect(rig: &Rig, who: &Subscriber, form: &str) {
    let subscription = rig.subscription(who).await["stripe_subscription_id"].clone();
    let path = format!("/v1/subscriptions/{}", subscription.as_str().unwrap());
    rig.call_stripe(Method::POST, &path, form).await;
    rig.settle().await;
}

/// Whether calls are refused, and until when they are not, in seconds.
async fn shown(rig: &Rig, who: &Subscriber) -> (Value, Option<i64>) {
    let shown = rig.subscription(who).await;
    let at = |at: &str| OffsetDateTime::parse(at, &Rfc3339).unwrap().unix_timestamp();
    (shown["payment_required"].clone(), shown["paid_until"].as_str().map(at))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_subscription_works_until_its_paid_period_ends() {
    let rig = Rig::start().await;
    rig.listen();
    for behavior in ["void", "keep_as_draft", "mark_uncollectible"] {
        let ada = rig.subscribed(behavior, "pro").await;
        rig.end_period(&ada).await;
        let end = rig.period(&ada).await.end;
        assert_eq!(shown(&rig, &ada).await, (json!(false), None), "{behavior}");
        collect(&rig, &ada, &format!("pause_collection[behavior]={behavior}")).await;
        assert_eq!(shown(&rig, &ada).await, (json!(false), Some(end)), "{behavior}");
        // The second period was paid; nothing after it is.
        rig.turn_to(end - 1);
        assert_eq!(shown(&rig, &ada).await.0, json!(false), "{behavior}");
        for after_s in [0, 60, 2 * 3_600, 32 * DAY_S] {
            rig.turn_to(end + after_s);
            assert_eq!(shown(&rig, &ada).await, (json!(true), Some(end)), "{behavior}");
            rig.settle().await;
            assert_eq!(shown(&rig, &ada).await, (json!(true), Some(end)), "{behavior}");
        }
        collect(&rig, &ada, "pause_collection=").await;
        assert_eq!(shown(&rig, &ada).await, (json!(false), None), "{behavior}");
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_subscription_goes_on_for_nothing_if_the_setting_says_so() {
    let mut rig = Rig::start().await;
    rig.paused_collection(PausedCollection::Allow).await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    collect(&rig, &ada, "pause_collection[behavior]=void").await;
    rig.end_period(&ada).await;
    assert_eq!(shown(&rig, &ada).await, (json!(false), None));
    // Another setting takes effect with the next event or comparison.
    rig.paused_collection(PausedCollection::Refuse).await;
    comparison::run(&rig.billing).await.unwrap();
    assert_eq!(shown(&rig, &ada).await.0, json!(true));
    rig.assert_valid();
}

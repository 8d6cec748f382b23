//! Subscriptions of other intervals, which only a person can make in Stripe.

use billing_worker::{
    accounts::customers,
    check::{self, row::Level},
};
use devstack::stripe_double::Card;
use http::Method;

use super::{
    super::{
        findings::{self, id, one, subscribe},
        rig::DAY_S,
    },
    start,
};

#[tokio::test(flavor = "multi_thread")]
async fn another_interval_is_an_alarm_and_its_limits_are_monthly() {
    for (recurring, longest) in [
        ("recurring[interval]=week", 31),
        ("recurring[interval]=month&recurring[interval_count]=3", 31),
        ("recurring[interval]=year&recurring[interval_count]=2", 31),
    ] {
        let rig = start("monthly").await;
        let ada = rig.subscriber("ada").await;
        let customer = customers::ensure(&rig.billing, ada.account).await.unwrap();
        rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
        let form = format!("currency=usd&unit_amount=700&{recurring}&product=trendit_pro&metadata[trendit_plan]=pro");
        let price = id(&rig.call_stripe(Method::POST, "/v1/prices", &form).await);
        let subscription = subscribe(&rig, &customer, &price).await;
        let shown = rig.subscription(&ada).await;
        assert_eq!((&shown["tier"], &shown["interval"]), (&"pro".into(), &"other".into()));
        let month = rig.period(&ada).await;
        assert!(
            (28 * DAY_S..=longest * DAY_S).contains(&(month.end - month.start)),
            "{recurring}"
        );
        assert_eq!(
            findings::open(&rig).await,
            one("interval", &subscription),
            "{recurring}"
        );
        let rows = check::at_start(&rig.billing).await.unwrap();
        let errors: Vec<_> = rows.iter().filter(|row| row.level == Level::Error).collect();
        assert_eq!(errors.len(), 2, "{rows:?}");
        assert!(
            errors[0].what.contains(&price) && errors[1].what.contains(&subscription),
            "{rows:?}"
        );
        let found = findings::findings(&rig).await.remove(0);
        assert!(found.remedy.contains("per month or per year"), "{found:?}");

        // Its units are not charged, and the next month has its own limits.
        rig.use_units(&ada, "api_call", 5_000).await;
        rig.end_month(&ada).await;
        assert_eq!(rig.period(&ada).await.start, month.end, "{recurring}");
        assert!(rig.totals(&ada).iter().all(|total| *total == 700), "{recurring}");
        rig.assert_valid();
    }
}

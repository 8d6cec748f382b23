//! Usage of a period in which the plan changes: it is charged at the prices under which it was admitted, whenever it arrives.

use billing_worker::{
    subscriptions::change::{self, ChangeWhen},
    tasks::worker,
};
use devstack::{
    StripeDoubleOptions,
    stripe_double::{Card, FaultKind, FaultRule},
};
use harness::eventually;
use schema::{Catalogue, Period};
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::rig::{DAY_S, Rig, Subscriber};
use crate::reports::usage;

/// Calls past the included ones are 1.5 cents on Pro, 2 cents on Team and 1 cent on Enterprise. Pro bills each export at 33.3333
/// cents.
const PLANS: &str = r#"
usage_types = ["api_call", "export", "sentiment_analysis"]

[[plan]]
id = "free"
name = "Free"
usage.api_call = { limit = 100 }
usage.export = { limit = 5 }
usage.sentiment_analysis = { limit = 50 }

[[plan]]
id = "pro"
name = "Pro"
prices = { month = 2900 }
usage.api_call = { limit = 1_000, mode = "overage", unit_price_micros = 15_000 }
usage.export = { mode = "metered", unit_price_micros = 333_333 }
usage.sentiment_analysis = { limit = 2_000 }

[[plan]]
id = "team"
name = "Team"
prices = { month = 9900 }
usage.api_call = { limit = 3_000, mode = "overage", unit_price_micros = 20_000 }
usage.export = { limit = 100 }
usage.sentiment_analysis = { limit = 2_000 }

[[plan]]
id = "enterprise"
name = "Enterprise"
prices = { month = 29900 }
usage.api_call = { limit = 5_000, mode = "overage", unit_price_micros = 10_000 }
usage.export = { limit = 1_000 }
usage.sentiment_analysis = { limit = 2_000 }
"#;

pub(super) async fn start() -> Rig {
    selling(PLANS).await
}

/// A service that sells these plans, ten seconds after a full minute: meters count whole minutes.
pub(super) async fn selling(plans: &str) -> Rig {
    let options = StripeDoubleOptions {
        start_at: Some(1_800_000_010),
        ..StripeDoubleOptions::default()
    };
    let rig = Rig::with(options, Catalogue::parse(plans).unwrap()).await;
    rig.listen();
    rig
}

impl Rig {
    pub(super) async fn upgrade_to(&self, who: &Subscriber, plan: &str) {
        self.post(who, "upgrade", json!({ "tier": plan })).await.ok().unwrap();
    }

    /// The segment that runs.
    pub(super) async fn segment(&self, who: &Subscriber) -> Period {
        let start: Option<OffsetDateTime> =
            sqlx::query_scalar("select segment_start from subscriptions where account_id = $1 and is_current")
                .bind(who.account.0)
                .fetch_one(&self.pool)
                .await
                .unwrap();
        let period = self.period(who).await;
        Period {
            start: start.map_or(period.start, OffsetDateTime::unix_timestamp),
            ..period
        }
    }

    /// Whether it is less than a minute ago: the clocks go on.
    pub(super) fn is_now(&self, at: i64) -> bool {
        (at..at + 60).contains(&self.control().now())
    }

    /// Usage that was admitted in this segment and arrives now.
    pub(super) async fn admitted(&self, who: &Subscriber, segment: Period, units: &[(&str, i64)]) {
        let units = units
            .iter()
            .map(|(usage_type, units)| (who.account, *usage_type, *units));
        let (clickhouse, now) = (&self.billing.admin.clickhouse, self.control().now());
        usage::insert(clickhouse, now, segment, units, Uuid::nil()).await;
    }

    /// What the usage of a plan cost so far, by usage type.
    pub(super) fn charged(&self, who: &Subscriber, plan: &str) -> Vec<(String, i64)> {
        let invoices = self.control().invoices(&self.customers(who)[0]);
        let lines = invoices
            .iter()
            .flat_map(|invoice| invoice["lines"]["data"].as_array().unwrap());
        let product = format!("× {plan}: ");
        let mut charged: Vec<_> = lines
            .filter_map(|line| {
                let (_, usage_type) = line["description"].as_str().unwrap().split_once(&product)?;
                let usage_type = usage_type.split(" (").next().unwrap().to_owned();
                Some((usage_type, line["amount"].as_i64().unwrap()))
            })
            .filter(|(_, cents)| *cents != 0)
            .collect();
        charged.sort_unstable();
        charged
    }

    /// Plan and usage type of the metered items, and the slot of their meters.
    pub(super) async fn metered(&self, who: &Subscriber) -> Vec<(String, String, String)> {
        let subscriptions = self.control().subscriptions(&self.customers(who)[0]);
        let items = subscriptions[0]["items"]["data"].as_array().unwrap().iter();
        let text = |price: &Value, name: &str| price["metadata"][name].as_str().unwrap_or("0").to_owned();
        let metered = items
            .map(|item| &item["price"])
            .filter(|price| price["recurring"]["usage_type"] == "metered");
        let mut metered: Vec<_> = metered
            .map(|price| {
                (
                    text(price, "trendit_plan"),
                    text(price, "trendit_usage_type"),
                    text(price, "trendit_meter_slot"),
                )
            })
            .collect();
        metered.sort_unstable();
        metered
    }

    /// Lets the time pass that open tasks wait, and runs them. Returns the kinds of those that are still open.
    pub(super) async fn run_open_tasks(&self) -> Vec<String> {
        sqlx::query("update stripe_tasks set next_attempt_at = now() where state <> 'done'")
            .execute(&self.pool)
            .await
            .unwrap();
        worker::step(&self.billing).await.unwrap();
        sqlx::query_scalar("select kind from stripe_tasks where state <> 'done' order by kind")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }
}

fn items(of: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    let owned = |(plan, usage_type, slot): &(&str, &str, &str)| {
        ((*plan).to_owned(), (*usage_type).to_owned(), (*slot).to_owned())
    };
    of.iter().map(owned).collect()
}

fn cents(of: &[(&str, i64)]) -> Vec<(String, i64)> {
    of.iter()
        .map(|(usage_type, cents)| ((*usage_type).to_owned(), *cents))
        .collect()
}

const PRO: [(&str, &str, &str); 2] = [("pro", "api_call", "0"), ("pro", "export", "0")];

#[tokio::test(flavor = "multi_thread")]
async fn usage_admitted_under_pro_is_charged_at_pro_prices_whenever_it_arrives() {
    let rig = start().await;
    let ada = rig.subscribed("ada", "pro").await;
    let pro = rig.period(&ada).await;
    rig.turn_by(10 * DAY_S);
    rig.admitted(&ada, pro, &[("api_call", 1_000)]).await;
    rig.upgrade_to(&ada, "enterprise").await;
    let enterprise = rig.segment(&ada).await;
    assert!(rig.is_now(enterprise.start));
    // Nothing of it is on the invoice of the upgrade.
    assert_eq!(rig.charged(&ada, "Pro"), []);
    rig.admitted(&ada, pro, &[("api_call", 500), ("export", 7)]).await;
    rig.admitted(&ada, enterprise, &[("api_call", 4_600), ("export", 10)])
        .await;
    let both = [&[("enterprise", "api_call", "1")], &PRO[..]].concat();
    assert_eq!(rig.metered(&ada).await, items(&both));
    rig.turn_by(DAY_S);
    assert_eq!(rig.run_open_tasks().await, ["remove_items"]);
    assert_eq!(rig.metered(&ada).await, items(&both));

    rig.end_period(&ada).await;
    assert_eq!(rig.charged(&ada, "Pro"), cents(&[("api call", 750), ("export", 233)]));
    assert_eq!(rig.charged(&ada, "Enterprise"), []);
    let invoice = &rig.get(&ada, "invoices").await["items"][0];
    assert_eq!(invoice["total_cents"], 29_900 + 750 + 233);

    // Its usage is billed, so the old items go.
    assert_eq!(rig.run_open_tasks().await, [""; 0]);
    assert_eq!(rig.metered(&ada).await, items(&[("enterprise", "api_call", "1")]));
    let next = rig.segment(&ada).await;
    assert_eq!(next.start, pro.end);
    rig.admitted(&ada, next, &[("api_call", 5_100)]).await;
    rig.end_period(&ada).await;
    assert_eq!(rig.charged(&ada, "Enterprise"), cents(&[("api call", 100)]));
    assert_eq!(rig.charged(&ada, "Pro"), cents(&[("api call", 750), ("export", 233)]));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_dies_between_any_two_calls_completes_or_changes_nothing() {
    /// More calls than an upgrade makes.
    const CALLS_MAX: usize = 40;
    let rig = start().await;
    let mut is_complete = false;
    for calls in 0..CALLS_MAX {
        let ada = rig.subscribed(&format!("ada-{calls}"), "pro").await;
        let pro = rig.period(&ada).await;
        rig.turn_by(3_600);
        rig.admitted(&ada, pro, &[("export", 3)]).await;
        let hangs = FaultRule::new(FaultKind::Hang { ms: 60_000 });
        rig.control().add_fault(hangs.skip(u32::try_from(calls).unwrap()));
        let killed = eventually("the next call of the worker hangs", async || {
            (rig.control().faults_struck() == 1).then_some(())
        });
        tokio::select! {
            done = change::change_plan(&rig.billing, ada.account, "enterprise", None, ChangeWhen::BySize) => {
                done.unwrap();
                is_complete = true;
            }
            () = killed => {}
        }
        rig.control().clear_faults();
        // The lease of a dead worker expires.
        sqlx::query("update subscription_leases set held_until = now()")
            .execute(&rig.pool)
            .await
            .unwrap();
        rig.settle().await;
        let open = rig.run_open_tasks().await;
        assert!(open.iter().all(|kind| kind == "remove_items"), "{calls}: {open:?}");
        let (plan, segment) = (rig.subscription(&ada).await["tier"].clone(), rig.segment(&ada).await);
        let metered = rig.metered(&ada).await;
        match plan.as_str() {
            Some("pro") => {
                assert!(!is_complete);
                assert_eq!((metered, segment), (items(&PRO), pro), "{calls}");
            }
            Some("enterprise") => {
                let both = [&[("enterprise", "api_call", "1")], &PRO[..]].concat();
                assert_eq!(metered, items(&both), "{calls}");
                assert!(segment.start > pro.start, "{calls}");
            }
            plan => panic!("{calls}: {plan:?}"),
        }
        if is_complete {
            break;
        }
    }
    assert!(is_complete);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_confirmed_later_begins_when_it_was_asked_for() {
    let rig = start().await;
    let ada = rig.subscribed("ada", "pro").await;
    let pro = rig.period(&ada).await;
    rig.turn_by(DAY_S);
    rig.control()
        .set_card(&rig.customers(&ada)[0], Some(Card::NeedsAction))
        .unwrap();
    let at = rig.control().now();
    let asked = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" })).await;
    let problem = asked.json().unwrap();
    assert_eq!(problem["error"], "payment_action_required");
    rig.settle().await;
    assert_eq!(rig.segment(&ada).await, pro);
    assert_eq!(rig.run_open_tasks().await, ["complete_upgrade"]);
    rig.turn_by(3_600);
    // Gateways do not know of it yet.
    rig.admitted(&ada, pro, &[("export", 7)]).await;
    rig.control()
        .confirm_payment(problem["invoice_id"].as_str().unwrap(), true)
        .unwrap();
    rig.settle().await;
    let enterprise = rig.segment(&ada).await;
    assert!((at..at + 60).contains(&enterprise.start));
    rig.admitted(&ada, enterprise, &[("api_call", 5_100)]).await;
    assert_eq!(rig.run_open_tasks().await, ["remove_items"]);
    assert_eq!(rig.metered(&ada).await.len(), 3);
    rig.end_period(&ada).await;
    assert_eq!(rig.charged(&ada, "Pro"), cents(&[("export", 233)]));
    assert_eq!(rig.charged(&ada, "Enterprise"), cents(&[("api call", 100)]));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_plan_gets_meters_of_its_own_and_the_larger_one_is_billed_to_its_end() {
    let rig = start().await;
    let ada = rig.subscribed("ada", "enterprise").await;
    let enterprise = rig.period(&ada).await;
    rig.turn_by(DAY_S);
    rig.upgrade_to(&ada, "pro").await;
    rig.admitted(&ada, enterprise, &[("api_call", 5_000)]).await;
    rig.turn_to(enterprise.end + 60);
    rig.settle().await;
    let shown = rig.subscription(&ada).await;
    assert_eq!((&shown["tier"], &shown["then_tier"]), (&json!("pro"), &Value::Null));
    // While the invoice is a draft.
    rig.admitted(&ada, enterprise, &[("api_call", 200)]).await;
    let pro = rig.segment(&ada).await;
    rig.admitted(&ada, pro, &[("api_call", 1_100), ("export", 3)]).await;
    billing_worker::reports::flush(rig.billing.reporter().unwrap(), ada.account, rig.control().now())
        .await
        .unwrap();
    rig.turn_by(2 * 3_600);
    rig.settle().await;
    assert_eq!(rig.charged(&ada, "Enterprise"), cents(&[("api call", 200)]));
    assert_eq!(rig.charged(&ada, "Pro"), []);
    assert_eq!(rig.run_open_tasks().await, [""; 0]);
    assert_eq!(
        rig.metered(&ada).await,
        items(&[("pro", "api_call", "1"), ("pro", "export", "1")])
    );
    rig.end_period(&ada).await;
    assert_eq!(rig.charged(&ada, "Pro"), cents(&[("api call", 150), ("export", 100)]));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_change_of_prices_waits_until_the_usage_is_billed() {
    let rig = start().await;
    let ada = rig.subscribed("ada", "pro").await;
    let period = rig.period(&ada).await;
    let mut segments = vec![period];
    for plan in ["team", "enterprise"] {
        rig.turn_by(DAY_S);
        rig.upgrade_to(&ada, plan).await;
        segments.push(rig.segment(&ada).await);
        assert!(rig.is_now(segments.last().unwrap().start));
    }
    let before = rig.state(&ada).await.unwrap();
    let refused = rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json().unwrap()["error"]),
        (409, &json!("changed_too_often"))
    );
    assert_eq!(rig.state(&ada).await.unwrap(), before);
    for (segment, units) in segments.into_iter().zip([1_100, 3_100, 5_100]) {
        rig.admitted(&ada, segment, &[("api_call", units)]).await;
    }
    rig.end_period(&ada).await;
    for (plan, amount) in [("Pro", 150), ("Team", 200), ("Enterprise", 100)] {
        assert_eq!(rig.charged(&ada, plan), cents(&[("api call", amount)]), "{plan}");
    }
    assert_eq!(rig.run_open_tasks().await, [""; 0]);
    assert_eq!(rig.metered(&ada).await, items(&[("enterprise", "api_call", "2")]));
    rig.upgrade_to(&ada, "pro").await;
    rig.assert_valid();
}

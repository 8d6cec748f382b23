//! Plans in several currencies. An account pays for everything in the currency of its first checkout.

use billing_worker::reports::{LateUsage, daily, money::Source};
use devstack::stripe_double::{FaultKind, FaultRule};
use http::Method;
use prometheus_client::{encoding::text::encode, registry::Registry};
use protocol::reports::money::MoneyState;
use serde_json::{Value, json};

use super::{
    money::{all, line, money, part, report},
    rig::{DAY_S, Rig, Subscriber},
    upgrades::selling,
};

/// Calls past the included ones are 1.4 euro cents on Pro, and 0.9 on Enterprise. Pro bills each export at 30 euro cents. Team is sold
/// in US dollars only.
pub(super) const PLANS: &str = r#"
usage_types = ["api_call", "export"]

[[plan]]
id = "free"
name = "Free"
usage.api_call = { limit = 100 }
usage.export = { limit = 5 }

[[plan]]
id = "pro"
name = "Pro"
prices.month = { usd = 2900, eur = 2700 }
usage.api_call = { limit = 1_000, mode = "overage", unit_price_micros = { usd = 15_000, eur = 14_000 } }
usage.export = { mode = "metered", unit_price_micros = { usd = 333_333, eur = 300_000 } }

[[plan]]
id = "team"
name = "Team"
prices = { month = 9900 }
usage.api_call = { limit = 3_000 }
usage.export = { limit = 100 }

[[plan]]
id = "enterprise"
name = "Enterprise"
prices.month = { usd = 29900, eur = 28000 }
usage.api_call = { limit = 5_000, mode = "overage", unit_price_micros = { usd = 10_000, eur = 9_000 } }
usage.export = { limit = 1_000 }
"#;

pub(super) async fn start() -> Rig {
    selling(PLANS).await
}

impl Rig {
    /// A subscriber who completed a checkout in this currency.
    pub(super) async fn paying_in(&self, name: &str, plan: &str, currency: &str) -> Subscriber {
        let who = self.subscriber(name).await;
        let asked = json!({ "tier": plan, "currency": currency });
        let opened = self.post(&who, "create-checkout-session", asked).await.ok().unwrap();
        let session = opened["session_id"].as_str().unwrap();
        self.control().complete_checkout(session).unwrap();
        self.settle().await;
        who
    }
}

/// Currency and total of the account's invoices, oldest first.
fn totals(rig: &Rig, who: &Subscriber) -> Vec<(String, i64)> {
    let invoices = rig.control().invoices(&rig.customers(who)[0]).into_iter();
    let shown = invoices.map(|one| {
        (
            one["currency"].as_str().unwrap().to_owned(),
            one["total"].as_i64().unwrap(),
        )
    });
    shown.collect()
}

fn euros(cents: i64) -> (String, i64) {
    ("eur".to_owned(), cents)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_pays_in_the_currency_of_the_checkout() {
    let rig = start().await;
    let ada = rig.paying_in("ada", "pro", "eur").await;
    let shown = rig.subscription(&ada).await;
    assert_eq!(
        (&shown["currency"], &shown["price_cents"]),
        (&json!("eur"), &json!(2_700))
    );
    let micros: Vec<_> = shown["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| &limit["unit_price_micros"])
        .collect();
    assert_eq!(micros, [&json!(14_000), &json!(300_000)]);
    let cap = rig.get(&ada, "spend-cap").await;
    assert_eq!((&cap["currency"], &cap["used_cents"]), (&json!("eur"), &json!(0)));

    let month = rig.period(&ada).await;
    rig.turn_by(DAY_S);
    rig.admitted(&ada, month, &[("api_call", 1_500), ("export", 7)]).await;
    report(&rig).await;
    let usage = rig.get(&ada, "usage").await;
    assert_eq!(
        (&usage["currency"], &usage["usage_cents"]),
        (&json!("eur"), &json!(700 + 210))
    );
    let calls = &usage["segments"][0]["usage"][0];
    assert_eq!(
        [
            &calls["usage_type"],
            &calls["currency"],
            &calls["unit_price_micros"],
            &calls["amount_cents"]
        ],
        [&json!("api_call"), &json!("eur"), &json!(14_000), &json!(700)]
    );
    assert_eq!(rig.get(&ada, "spend-cap").await["used_cents"], 910);
    rig.end_period(&ada).await;
    assert_eq!(totals(&rig, &ada), [euros(2_700), euros(2_700 + 910)]);
    let invoices = rig.get(&ada, "invoices").await;
    assert_eq!(invoices["items"][0]["currency"], "eur", "{invoices}");

    // Another sync finds nothing to change, and the price has both amounts.
    rig.control().clear_requests();
    rig.sync().await;
    let written = rig
        .control()
        .requests()
        .into_iter()
        .filter(|call| call.method == "POST" && call.path == "/v1/prices");
    assert_eq!(written.count(), 0);
    let found = "/v1/prices?lookup_keys[]=trendit_pro&expand[]=data.currency_options";
    let found = rig.call_stripe(Method::GET, found, "").await;
    let price = &found["data"][0];
    assert_eq!(
        (
            &price["currency"],
            &price["unit_amount"],
            &price["currency_options"]["eur"]["unit_amount"]
        ),
        (&json!("usd"), &json!(2_900), &json!(2_700))
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_a_correction_and_late_usage_are_in_the_currency_of_the_account() {
    let rig = start().await;
    let ada = rig.paying_in("ada", "pro", "eur").await;
    let pro = rig.period(&ada).await;
    rig.turn_by(DAY_S);
    rig.admitted(&ada, pro, &[("api_call", 1_500), ("export", 7)]).await;
    report(&rig).await;
    rig.turn_by(9 * DAY_S);
    let asked = json!({ "tier": "enterprise", "preview": true });
    let preview = rig.post(&ada, "upgrade", asked).await.ok().unwrap();
    let asked = json!({ "tier": "enterprise", "proration_date": preview["proration_date"] });
    rig.post(&ada, "upgrade", asked).await.ok().unwrap();
    rig.settle().await;
    rig.run_open_tasks().await;
    assert_eq!(preview["currency"], "eur");
    let due = preview["amount_due_cents"].as_i64().unwrap();
    // About two thirds of 280 − 27 euros.
    assert!((16_000..=18_000).contains(&due), "{preview}");
    assert_eq!(totals(&rig, &ada), [euros(2_700), euros(due)]);

    let enterprise = rig.segment(&ada).await;
    rig.turn_by(DAY_S);
    rig.admitted(&ada, enterprise, &[("api_call", 5_100)]).await;
    report(&rig).await;
    rig.end_period(&ada).await;
    rig.run_open_tasks().await;
    let last = totals(&rig, &ada).pop().unwrap();
    assert_eq!(last, euros(28_000 + 700 + 210 + 90));
    assert_eq!(rig.subscription(&ada).await["price_cents"], 28_000);

    // One more export of Pro comes late, and 200 of its calls were wrong.
    rig.admitted(&ada, pro, &[("export", 1)]).await;
    rig.correct(&ada, pro, "api_call", 200).await;
    report(&rig).await;
    rig.turn_by(3_700);
    report(&rig).await;
    rig.settle().await;
    let found = all(&rig, Source::Copies).await;
    let of_pro = money(&found, pro.start);
    assert_eq!(of_pro.currency, "eur");
    assert_eq!(part(of_pro, "export"), [240, 210, 0, 30, 0], "{found:#?}");
    assert_eq!(part(of_pro, "api_call"), [420, 700, 280, 0, 0], "{found:#?}");
    rig.end_period(&ada).await;
    let last = totals(&rig, &ada).pop().unwrap();
    assert_eq!(last, euros(28_000 + 30));
    for source in [Source::Copies, Source::Stripe] {
        let found = all(&rig, source).await;
        let wrong: Vec<_> = found.money.iter().flat_map(|money| &money.differences).collect();
        assert_eq!(wrong, Vec::<&String>::new());
        assert_eq!(money(&found, pro.start).state, MoneyState::Ok, "{found:#?}");
        let asked: i64 = totals(&rig, &ada).iter().map(|(_, cents)| cents).sum();
        let sums: Vec<_> = found
            .totals
            .money
            .iter()
            .map(|(currency, sums)| (currency.as_str(), sums.invoiced_cents))
            .collect();
        assert_eq!(sums, [("eur", asked)]);
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_in_euros_are_not_added_to_amounts_in_dollars() {
    let rig = start().await;
    let (ada, ben) = (
        rig.paying_in("ada", "pro", "eur").await,
        rig.subscribed("ben", "pro").await,
    );
    assert_eq!(rig.subscription(&ben).await["currency"], "usd");
    rig.turn_by(DAY_S);
    for who in [&ada, &ben] {
        let month = rig.period(who).await;
        rig.admitted(who, month, &[("api_call", 1_500)]).await;
    }
    report(&rig).await;
    rig.end_period(&ben).await;
    let found = all(&rig, Source::Stripe).await;
    let invoiced = |currency: &str| found.totals.money[currency].invoiced_cents;
    assert_eq!((invoiced("eur"), invoiced("usd")), (2 * 2_700 + 700, 2 * 2_900 + 750));

    // Both lack the line of their calls in Stripe.
    for (who, cents) in [(&ada, 700), (&ben, 750)] {
        let (invoice, line) = line(&rig, who, cents);
        rig.control().delete_invoice_line(&invoice, &line).unwrap();
    }
    let found = all(&rig, Source::Stripe).await;
    let differs = |currency: &str| found.totals.money[currency].difference_cents;
    assert_eq!((differs("eur"), differs("usd")), (700, 750), "{found:#?}");
    let said: Vec<_> = found.money.iter().flat_map(|money| &money.differences).collect();
    assert!(
        said.iter().any(|said| said.contains("0.00 eur instead of 7.00 eur")),
        "{said:?}"
    );

    let reporter = rig.billing.reporter().unwrap();
    for now in [rig.control().now(), rig.control().now() + DAY_S] {
        while !daily::step(reporter, now).await.unwrap().is_complete {}
    }
    let metric = |currency: &str| metric(&rig, &format!("money_difference_cents{{currency=\"{currency}\"}} "));
    assert_eq!((metric("eur"), metric("usd")), (Some(700), Some(750)));
}

/// The value of a metric, which begins a line with this text.
fn metric(rig: &Rig, name: &str) -> Option<i64> {
    let (mut registry, mut page) = (Registry::default(), String::new());
    rig.billing.reporter().unwrap().metrics.register(&mut registry);
    encode(&mut page, &registry).unwrap();
    page.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn open_money_is_shown_by_currency_until_it_is_charged() {
    let mut rig = start().await;
    rig.late_usage(LateUsage::CreditOrCharge).await;
    let (ada, ben) = (
        rig.paying_in("ada", "pro", "eur").await,
        rig.subscribed("ben", "pro").await,
    );
    rig.turn_by(DAY_S);
    let months = [(&ada, rig.period(&ada).await), (&ben, rig.period(&ben).await)];
    for (who, month) in months {
        rig.admitted(who, month, &[("export", 1)]).await;
    }
    report(&rig).await;
    rig.end_period(&ben).await;
    for (who, month) in months {
        rig.admitted(who, month, &[("export", 10)]).await;
    }
    // Stripe makes no invoice items.
    let fails = FaultRule::new(FaultKind::ServerError)
        .path("/v1/invoiceitems")
        .method("POST");
    rig.control().add_fault(fails);
    report(&rig).await;
    let open = |currency: &str| {
        let name = format!("open_money_cents{{kind=\"charge\",currency=\"{currency}\"}} ");
        metric(&rig, &name)
    };
    // 11 exports at 33.3333 cents cost 367, and one was billed.
    assert_eq!((open("eur"), open("usd")), (Some(300), Some(334)));
    rig.control().clear_faults();
    rig.turn_by(1_000);
    report(&rig).await;
    assert_eq!((open("eur"), open("usd")), (None, None));
    for (who, amount, currency) in [(&ada, 300, "eur"), (&ben, 334, "usd")] {
        let path = format!("/v1/invoiceitems?customer={}", rig.customers(who)[0]);
        let items = rig.call_stripe(Method::GET, &path, "").await;
        assert_eq!(items["data"].as_array().unwrap().len(), 1);
        let item = &items["data"][0];
        assert_eq!((&item["amount"], &item["currency"]), (&json!(amount), &json!(currency)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_the_end_of_the_period_keeps_the_currency() {
    let rig = start().await;
    let ada = rig.paying_in("ada", "enterprise", "eur").await;
    let planned = rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    assert_eq!(planned["then_tier"], "pro");
    let phases = |call: &devstack::stripe_double::RecordedRequest| {
        call.path.starts_with("/v1/subscription_schedules/") && call.params.get("phases").is_some()
    };
    let call = rig.control().requests().into_iter().find(phases).unwrap();
    let currency = |phase: &str| call.params["phases"][phase]["currency"].clone();
    assert_eq!([currency("0"), currency("1")], [json!("eur"), json!("eur")]);
    rig.end_period(&ada).await;
    assert_eq!(totals(&rig, &ada), [euros(28_000), euros(2_700)]);
    let shown: Value = rig.subscription(&ada).await;
    assert_eq!((&shown["tier"], &shown["currency"]), (&json!("pro"), &json!("eur")));
    rig.assert_valid();
}

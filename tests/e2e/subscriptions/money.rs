//! Every cent on the invoices is explained by usage and prices, and every difference is said.

use std::{process::Output, time::Duration};

use billing_worker::{
    reports::{
        self, accepted, daily,
        money::{PeriodMoney, Source},
        reconcile::{self, Question, Reconciliation, Which},
    },
    webhook::comparison,
};
use http::Method;
use prometheus_client::{encoding::text::encode, registry::Registry};
use protocol::reports::money::MoneyState;
use schema::{Period, period::instant};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;

use super::{
    rig::{DAY_S, Rig, Subscriber},
    upgrades::start,
};
use crate::SERVICES;

pub(super) async fn report(rig: &Rig) {
    let reporter = rig.billing.reporter().unwrap();
    reports::step(reporter, rig.control().now()).await.unwrap();
}

pub(super) async fn all(rig: &Rig, source: Source) -> Reconciliation {
    let question = Question {
        which: Which::All,
        account: None,
        recount: true,
        source,
        summaries: true,
    };
    let reporter = rig.billing.reporter().unwrap();
    reconcile::run(reporter, &question, Duration::ZERO, rig.control().now())
        .await
        .unwrap()
}

/// The money of the period or segment that begins then.
pub(super) fn money(found: &Reconciliation, start: i64) -> &PeriodMoney {
    let of = |money: &&PeriodMoney| money.period_start.unix_timestamp() == start;
    found.money.iter().find(of).unwrap()
}

/// Owed, invoiced, credited, pending and open of a usage type.
pub(super) fn part(money: &PeriodMoney, usage_type: &str) -> [i64; 5] {
    let of = |part: &&reports::money::Part| part.usage_type.as_deref() == Some(usage_type);
    let amounts = money.parts.iter().find(of).unwrap().amounts;
    [
        amounts.owed_cents,
        amounts.invoiced_cents,
        amounts.credited_cents,
        amounts.pending_cents,
        amounts.open_cents,
    ]
}

async fn run(rig: &Rig, args: &[&str]) -> Output {
    let mut command = Command::new(SERVICES);
    command.args(["service", "billing-worker"]).args(args).envs(rig.env());
    let output = command.kill_on_drop(true).output();
    tokio::time::timeout(harness::wait::PATIENCE, output)
        .await
        .unwrap()
        .unwrap()
}

/// 1,500 calls and 7 exports on Pro, on a final invoice.
async fn billed() -> (Rig, Subscriber, Period) {
    let rig = start().await;
    let ada = rig.subscribed("ada", "pro").await;
    let month = rig.period(&ada).await;
    rig.turn_by(DAY_S);
    rig.admitted(&ada, month, &[("api_call", 1_500), ("export", 7)]).await;
    report(&rig).await;
    rig.end_period(&ada).await;
    comparison::run(&rig.billing).await.unwrap();
    (rig, ada, month)
}

/// The line of the latest invoice that costs so many cents.
pub(super) fn line(rig: &Rig, who: &Subscriber, cents: i64) -> (String, String) {
    let invoice = rig.control().invoices(&rig.customers(who)[0]).pop().unwrap();
    let lines = invoice["lines"]["data"].as_array().unwrap();
    let line = lines.iter().find(|line| line["amount"] == cents).unwrap();
    let id = |object: &Value| object["id"].as_str().unwrap().to_owned();
    (id(&invoice), id(line))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_turned_month_every_line_is_explained() {
    let rig = start().await;
    let ada = rig.subscribed("ada", "pro").await;
    let pro = rig.period(&ada).await;
    rig.turn_by(DAY_S);
    rig.admitted(&ada, pro, &[("api_call", 1_500), ("export", 7)]).await;
    report(&rig).await;
    rig.turn_by(9 * DAY_S);
    rig.upgrade_to(&ada, "enterprise").await;
    rig.settle().await;
    rig.run_open_tasks().await;
    let enterprise = rig.segment(&ada).await;
    rig.turn_by(DAY_S);
    rig.admitted(&ada, enterprise, &[("api_call", 5_100)]).await;
    report(&rig).await;
    rig.end_period(&ada).await;
    rig.run_open_tasks().await;
    comparison::run(&rig.billing).await.unwrap();
    let found = all(&rig, Source::Copies).await;
    assert_eq!(
        (found.totals.differing, found.totals.differing_periods),
        (0, 0),
        "{found:#?}"
    );
    assert_eq!(part(money(&found, pro.start), "api_call"), [750, 750, 0, 0, 0]);
    assert_eq!(part(money(&found, pro.start), "export"), [233, 233, 0, 0, 0]);
    assert_eq!(part(money(&found, enterprise.start), "api_call"), [100, 100, 0, 0, 0]);

    // One more export of Pro: no period follows with its prices. And 200 of its calls were wrong.
    rig.admitted(&ada, pro, &[("export", 1)]).await;
    rig.correct(&ada, pro, "api_call", 200).await;
    report(&rig).await;
    let found = all(&rig, Source::Copies).await;
    let of_pro = money(&found, pro.start);
    assert_eq!(part(of_pro, "export"), [267, 233, 0, 0, 34], "{found:#?}");
    assert_eq!(of_pro.state, MoneyState::Open);
    rig.turn_by(3_700);
    report(&rig).await;
    rig.settle().await;
    let found = all(&rig, Source::Copies).await;
    let of_pro = money(&found, pro.start);
    assert_eq!(of_pro.differences, Vec::<String>::new());
    assert_eq!(part(of_pro, "export"), [267, 233, 0, 34, 0], "on the next invoice");
    assert_eq!(part(of_pro, "api_call"), [450, 750, 300, 0, 0]);

    rig.end_period(&ada).await;
    comparison::run(&rig.billing).await.unwrap();
    for source in [Source::Copies, Source::Stripe] {
        let found = all(&rig, source).await;
        let wrong: Vec<_> = found.money.iter().flat_map(|money| &money.differences).collect();
        assert_eq!(wrong, Vec::<&String>::new());
        assert_eq!(part(money(&found, pro.start), "export"), [267, 267, 0, 0, 0]);
        assert_eq!(money(&found, pro.start).state, MoneyState::Ok);
        let plan: Vec<_> = found
            .money
            .iter()
            .filter_map(|money| {
                let plan = money.parts.iter().find(|part| part.usage_type.is_none())?;
                Some((plan.amounts.owed_cents, plan.amounts.difference_cents, plan.state))
            })
            .collect();
        // The month of Pro with two prorations, and two of Enterprise.
        assert_eq!(plan.len(), 3, "{plan:?}");
        assert!(plan[0].0 > 2_900 && plan[1].0 == 29_900, "{plan:?}");
        // Everything that the customer was asked for is in it.
        let invoices = rig.control().invoices(&rig.customers(&ada)[0]);
        let asked: i64 = invoices
            .iter()
            .map(|invoice| invoice["subtotal"].as_i64().unwrap())
            .sum();
        assert_eq!(found.totals.money["usd"].invoiced_cents, asked);
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_meter_event_or_invoice_line_is_a_difference_and_the_exit_code_says_so() {
    let (rig, ada, month) = billed().await;
    let day = instant(month.start).date().to_string();
    let right = run(&rig, &["reconcile", "--period", &day, "--fresh"]).await;
    let text = String::from_utf8_lossy(&right.stdout);
    assert!(
        right.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&right.stderr)
    );
    let row = |usage_type: &str| text.lines().find(|line| line.contains(usage_type)).unwrap().to_owned();
    assert!(
        row("api_call").contains("7.50") && row("(plan)").contains("29.00"),
        "{text}"
    );

    let (invoice, line) = line(&rig, &ada, 750);
    rig.control().delete_invoice_line(&invoice, &line).unwrap();
    assert!(rig.control().delete_invoice_line(&invoice, &line).is_err());
    let copies = run(&rig, &["reconcile", "--period", &day]).await;
    assert!(copies.status.success(), "the copies still have it");
    let failed = run(&rig, &["reconcile", "--period", &day, "--fresh"]).await;
    let (text, why) = (
        String::from_utf8_lossy(&failed.stdout),
        String::from_utf8_lossy(&failed.stderr),
    );
    assert_eq!(failed.status.code(), Some(1), "{text}");
    assert!(why.contains("1 of 1 periods differ in money"), "{why}");
    let said = format!("api_call: 1500 units were reported, and {invoice} bills 1000: 0.00 usd instead of 7.50 usd");
    assert!(text.contains(&said), "{text}");
    let json = run(&rig, &["reconcile", "--period", &day, "--fresh", "--json"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (
            &json["money"][0]["state"],
            &json["totals"]["money"]["usd"]["difference_cents"]
        ),
        (&json!("difference"), &json!(750))
    );

    let events = rig.control().meter_events();
    let exports = events
        .iter()
        .find(|event| event.event_name == "trendit_export")
        .unwrap();
    assert_eq!(exports.units, 7);
    rig.control().delete_meter_event(&exports.identifier).unwrap();
    // The command has the real clock, for which these reports are new: summaries may lack them.
    sqlx::query("update meter_reports set done_at = '2026-01-01'")
        .execute(&rig.pool)
        .await
        .unwrap();
    let failed = run(&rig, &["reconcile", "--period", &day, "--account", "ada@example.com"]).await;
    let (text, why) = (
        String::from_utf8_lossy(&failed.stdout),
        String::from_utf8_lossy(&failed.stderr),
    );
    assert_eq!(failed.status.code(), Some(1), "{text}");
    assert!(why.contains("lines differ in units"), "{why}");
    assert!(text.contains("DIFFERENCE: Stripe lacks 7 units"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credit_that_did_not_reach_the_balance_is_a_difference_and_what_a_person_changed_is_said() {
    let (rig, ada, month) = billed().await;
    rig.correct(&ada, month, "api_call", 500).await;
    report(&rig).await;
    rig.turn_by(3_700);
    report(&rig).await;
    rig.settle().await;
    let found = all(&rig, Source::Stripe).await;
    let first = money(&found, month.start);
    assert_eq!(first.differences, Vec::<String>::new());
    assert_eq!(part(first, "api_call"), [0, 750, 750, 0, 0]);

    let customer = rig.customers(&ada).pop().unwrap();
    let path = format!("/v1/customers/{customer}/balance_transactions");
    let changed = rig.call_stripe(Method::POST, &path, "amount=-300&currency=usd").await;
    let found = all(&rig, Source::Stripe).await;
    let second = money(&found, rig.period(&ada).await.start);
    let said = format!(
        "somebody changed the customer's balance: it pays 3.00 usd on the next invoices ({})",
        changed["id"].as_str().unwrap()
    );
    assert_eq!(
        (second.notes.as_slice(), second.differences.len()),
        ([said].as_slice(), 0)
    );

    let notes = rig
        .call_stripe(Method::GET, &format!("/v1/credit_notes?customer={customer}"), "")
        .await;
    let note = notes["data"][0]["id"].as_str().unwrap();
    rig.control().delete_credit(note).unwrap();
    let found = all(&rig, Source::Stripe).await;
    let first = money(&found, month.start);
    let said = format!("credit note {note} returns 7.50 usd, and 0.00 usd of it reached the customer's balance");
    assert_eq!(first.differences, [said]);
    assert_eq!(
        (first.state, first.amounts.difference_cents),
        (MoneyState::Difference, 750)
    );
    // The copies know no balance.
    assert_eq!(all(&rig, Source::Copies).await.totals.differing_periods, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_checked_daily_and_a_difference_is_a_metric() {
    let (rig, ada, month) = billed().await;
    let reporter = rig.billing.reporter().unwrap();
    let check = async || {
        let mut last = daily::Checked::default();
        for _ in 0..5 {
            last = daily::step(reporter, rig.control().now()).await.unwrap();
            if last.is_complete {
                break;
            }
        }
        last
    };
    let metric = |name: &str| -> Option<i64> {
        let (mut registry, mut page) = (Registry::default(), String::new());
        reporter.metrics.register(&mut registry);
        encode(&mut page, &registry).unwrap();
        let named = format!("{name} ");
        page.lines().find_map(|line| line.strip_prefix(&named)?.parse().ok())
    };
    let cents = r#"money_difference_cents{currency="usd"}"#;
    let stored = async || -> (String, i64, Vec<String>) {
        sqlx::query_as(
            "select state, difference, differences from money_checks where account_id = $1 and period_start = $2",
        )
        .bind(ada.account.0)
        .bind(instant(month.start))
        .fetch_one(&rig.pool)
        .await
        .unwrap()
    };
    assert!(check().await.is_complete);
    assert_eq!(stored().await, ("ok".to_owned(), 0, vec![]));
    assert_eq!(metric("money_differing_periods"), Some(0));
    assert_eq!(metric("money_checked_timestamp_seconds"), Some(rig.control().now()));
    let again = daily::step(reporter, rig.control().now()).await.unwrap();
    assert_eq!(again, daily::Checked::default(), "once a day");

    // The sample of the next day is the only account.
    let (invoice, line) = line(&rig, &ada, 233);
    rig.control().delete_invoice_line(&invoice, &line).unwrap();
    rig.turn_by(DAY_S);
    check().await;
    let (state, difference, differences) = stored().await;
    assert_eq!((state.as_str(), difference, differences.len()), ("difference", -233, 1));
    assert_eq!((metric(cents), metric("money_differing_periods")), (Some(233), Some(1)));
    // The copies do not have it, so Stripe is asked until it is gone.
    rig.turn_by(3_601);
    assert_eq!(daily::step(reporter, rig.control().now()).await.unwrap().differing, 1);

    // An operator sees it, settles it in Stripe, and accepts it.
    let shown = accepted::open(&rig.pool, 10).await.unwrap();
    assert_eq!((shown.len(), shown[0].difference_cents), (1, -233));
    let args = ["reports", "accept-difference", "ada@example.com"];
    let start = instant(month.start).format(&Rfc3339).unwrap();
    let accept = [&args[..], &[&start, "--reason", "an invoice item"]].concat();
    let accept = run(&rig, &accept).await;
    let text = String::from_utf8_lossy(&accept.stdout);
    assert!(accept.status.success() && text.contains("-2.33 usd"), "{text}");
    assert!(accepted::open(&rig.pool, 10).await.unwrap().is_empty());
    rig.turn_by(DAY_S);
    assert_eq!(check().await.differing, 0);
    assert_eq!((metric(cents), metric("money_differing_periods")), (None, Some(0)));
    let compared = run(&rig, &["reconcile", "--period", &start[..10], "--fresh"]).await;
    let text = String::from_utf8_lossy(&compared.stdout);
    assert!(compared.status.success(), "{text}");
    assert!(
        text.contains("DIFFERENCE") && text.contains(": an invoice item"),
        "{text}"
    );
    let again = [&args[..], &["2026-01-01T00:00:00Z", "--reason", "x"]].concat();
    assert_eq!(run(&rig, &again).await.status.code(), Some(1));

    // After each final invoice, without waiting for the day.
    let second = rig.period(&ada).await;
    rig.admitted(&ada, second, &[("export", 3)]).await;
    report(&rig).await;
    let now = rig.control().now();
    sqlx::query("update money_sweeps set completed_at = $1")
        .bind(instant(second.end))
        .execute(&rig.pool)
        .await
        .unwrap();
    assert!(now < second.end);
    rig.end_period(&ada).await;
    let checked = daily::step(reporter, rig.control().now()).await.unwrap();
    assert_eq!((checked.accounts, checked.is_complete), (1, false));
    let state: String = sqlx::query_scalar("select state from money_checks where period_start = $1")
        .bind(instant(second.start))
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(state, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_is_what_is_invoiced() {
    let rig = start().await;
    let ada = rig.subscribed("ada", "pro").await;
    let month = rig.period(&ada).await;
    rig.turn_by(DAY_S);
    let mut total = 0;
    for exports in [1, 1, 5, 23] {
        rig.admitted(&ada, month, &[("api_call", 401), ("export", exports)])
            .await;
        report(&rig).await;
        let shown = rig.get(&ada, "usage").await["usage_cents"].as_i64().unwrap();
        let found = all(&rig, Source::Copies).await;
        let of_month = money(&found, month.start);
        let owed: i64 = ["api_call", "export"]
            .iter()
            .filter(|name| {
                of_month
                    .parts
                    .iter()
                    .any(|part| part.usage_type.as_deref() == Some(**name))
            })
            .map(|name| part(of_month, name)[0])
            .sum();
        assert_eq!(shown, owed);
        total = shown;
    }
    // 604 calls at 1.5 cents, and 30 exports at 33.3333 cents.
    assert_eq!(total, 906 + 1_000);
    rig.end_period(&ada).await;
    let charged: i64 = rig.charged(&ada, "Pro").iter().map(|(_, cents)| cents).sum();
    assert_eq!(charged, total);
    let found = all(&rig, Source::Copies).await;
    assert_eq!(money(&found, month.start).state, MoneyState::Ok, "{found:#?}");
    rig.assert_valid();
}

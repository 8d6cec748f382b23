//! Freezing periods, and comparing the three counts.

use std::time::Duration;

use billing_worker::reports::{
    ReportSettings,
    money::Source,
    reconcile::{self, LineState, Question, Reconciliation, Which},
};
use devstack::{StripeDoubleOptions, stripe_double::FaultKind};
use http::Method;
use serde_json::Value;
use tokio::process::Command;

use super::rig::{HOUR, Rig, START, TYPES, month};
use crate::SERVICES;

pub(super) async fn all(rig: &Rig, recount: bool) -> Reconciliation {
    let question = Question {
        which: Which::All,
        account: None,
        recount,
        source: Source::Copies,
        summaries: true,
    };
    reconcile::run(&rig.reporter, &question, Duration::ZERO, rig.now())
        .await
        .unwrap()
}

async fn states(rig: &Rig) -> (u64, u64) {
    let totals = all(rig, false).await.totals;
    (totals.differing, totals.pending)
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_not_reported_yet_is_pending_and_wrong_counts_differ() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[10]).await;
    assert_eq!(states(&rig).await, (0, 1), "not reported yet");
    rig.stripe.add_fault(rig.fault(FaultKind::Reset).after().times(1));
    rig.step().await;
    assert_eq!(states(&rig).await, (0, 1), "a report with an unknown outcome");
    rig.stripe.advance_by(60);
    rig.step().await;
    assert_eq!(states(&rig).await, (0, 0));

    rig.stripe.set_summary_lag_s(600);
    rig.use_units(&account, month(0), "api_call", &[5]).await;
    rig.step().await;
    assert_eq!(states(&rig).await, (0, 1), "summaries lag");
    rig.stripe.advance_by(601);
    assert_eq!(states(&rig).await, (0, 0));
    let totals = all(&rig, false).await.totals;
    assert_eq!(
        (totals.clickhouse_units, totals.ledger_units, totals.stripe_units),
        (15, 15, 15)
    );

    // Reported by someone else.
    rig.stripe.set_summary_lag_s(0);
    rig.stripe.advance_by(2 * HOUR);
    let event = [
        ("event_name", "trendit_api_call".to_owned()),
        ("payload[stripe_customer_id]", account.customer.clone()),
        ("payload[value]", "3".to_owned()),
    ];
    rig.call(Method::POST, "/v1/billing/meter_events", &event).await;
    let reconciliation = all(&rig, false).await;
    let row = reconciliation
        .rows
        .iter()
        .find(|row| row.usage_type == "api_call")
        .unwrap();
    assert_eq!((row.difference_units, row.state), (3, LineState::Difference));
}

/// Something between the worker and Stripe answers each meter event with a 200 that is not Stripe's.
#[tokio::test(flavor = "multi_thread")]
async fn units_that_stay_pending_are_an_error() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    let stuck = async || {
        let found = all(&rig, false).await;
        let mut stuck = found.rows.iter().map(|row| row.stuck_units);
        let of_all = (found.totals.differing, found.totals.pending, found.totals.stuck);
        (of_all, stuck.find(|units| *units != 0))
    };
    rig.use_units(&account, month(0), "api_call", &[10]).await;
    rig.stripe.add_fault(rig.fault(FaultKind::OtherJson));
    rig.step().await;
    assert_eq!(stuck().await, ((0, 1, 0), None), "it may still arrive");
    rig.stripe.advance_by(16 * 60);
    rig.use_units(&account, month(0), "api_call", &[5]).await;
    rig.step().await;
    assert_eq!(stuck().await, ((0, 1, 1), Some(10)), "five units are new");
    rig.stripe.clear_faults();
    rig.stripe.advance_by(60);
    for _ in 0..2 {
        rig.step().await;
    }
    assert_eq!(stuck().await, ((0, 0, 0), None));
    assert_eq!(rig.reported(&account, month(0), "api_call"), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_period_that_agrees_is_frozen_and_thawed_only_by_late_events() {
    let rig = Rig::start().await;
    let accounts = rig.accounts(3, month(0)).await;
    for account in &accounts {
        for usage_type in TYPES {
            rig.use_units(account, month(0), usage_type, &[10]).await;
        }
    }
    rig.step().await;
    // Stripe has other units of one account.
    let event = [
        ("event_name", "trendit_export".to_owned()),
        ("payload[stripe_customer_id]", accounts[2].customer.clone()),
        ("payload[value]", "1".to_owned()),
    ];
    rig.call(Method::POST, "/v1/billing/meter_events", &event).await;
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    rig.finalize(month(0)).await;
    assert_eq!(rig.step().await.frozen.periods, 0, "not before the margin");
    rig.stripe.advance_to(month(0).end + 3 * HOUR);
    let frozen = rig.step().await.frozen;
    assert_eq!((frozen.periods, frozen.differing), (2, 1));

    assert_eq!(
        all(&rig, false).await.totals.differing,
        1,
        "the units that someone else reported"
    );

    // Never summed again: lost rows do not change a stored total.
    rig.clickhouse
        .query(&format!(
            "delete from usage_events where account_id = '{}'",
            accounts[1].id
        ))
        .execute()
        .await
        .unwrap();
    assert_eq!(rig.step().await.thawed, 0);
    let differing = async |recount| all(&rig, recount).await.totals.differing;
    assert_eq!(
        (differing(false).await, differing(true).await),
        (1, 4),
        "a recount finds it"
    );

    // An operator corrects last month, weeks later.
    rig.stripe.advance_by(20 * 24 * HOUR);
    rig.add_period(&accounts, month(1)).await;
    rig.correct(&accounts[0], month(0), "export", 4).await;
    rig.use_units(&accounts[0], month(1), "export", &[10]).await;
    let step = rig.step().await;
    // A carry is written, and settled: there is nothing to return.
    assert_eq!((step.thawed, step.carries, step.frozen.periods), (1, 2, 1));
    assert_eq!(rig.step().await.thawed, 0);
    assert_eq!(
        rig.reported(&accounts[0], month(1), "export"),
        10,
        "a correction of another month does not lower this one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_the_three_counts_and_fails_if_they_differ() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[10]).await;
    rig.step().await;
    let run = async |args: &[&str]| {
        let mut command = Command::new(SERVICES);
        command.args(["service", "billing-worker"]).args(args).envs(rig.env());
        let output = command.kill_on_drop(true).output();
        tokio::time::timeout(harness::wait::PATIENCE, output)
            .await
            .unwrap()
            .unwrap()
    };
    // The process uses the real clock, and the periods of the fake Stripe are at other times.
    let day = schema::period::instant(month(0).start).date().to_string();
    let table = run(&["reconcile", "--period", &day]).await;
    let text = String::from_utf8_lossy(&table.stdout);
    assert!(
        table.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&table.stderr)
    );
    let line = text.lines().find(|line| line.contains("api_call")).unwrap();
    assert!(
        line.ends_with("10  0  0  10  10  0  ok") || line.split_whitespace().last() == Some("ok"),
        "{text}"
    );

    let lost = "delete from usage_events where cost_units = 10";
    rig.clickhouse.query(lost).execute().await.unwrap();
    let failed = run(&["reconcile", "--period", &day, "--json"]).await;
    let json: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(
        (failed.status.code(), &json["totals"]["differing"]),
        (Some(1), &Value::from(1))
    );
    let stderr = String::from_utf8_lossy(&failed.stderr);
    assert!(stderr.contains("1 of 3 lines differ in units"), "{stderr}");

    for args in [
        &["reports", "list", "--state", "delivered"][..],
        &["reports", "attention"],
        &["reports", "list", "--parked", "--json"],
    ] {
        assert!(run(args).await.status.success(), "{args:?}");
    }
    assert!(!run(&["reports", "retry", "nothing"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reported_ahead_of_a_period_of_seconds_that_bills_nothing_is_no_difference() {
    let options = StripeDoubleOptions {
        start_at: Some(START + 10),
        ..StripeDoubleOptions::default()
    };
    let rig = Rig::with(options, ReportSettings::default()).await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "export", &[3]).await;
    // In the first minute, usage is reported for the next one. Then the subscription is cancelled.
    rig.step().await;
    let ended = "update billing_periods set period_end = $1, plan_id = 'pro', final_at = $1";
    let end = schema::period::instant(START + 30);
    sqlx::query(ended).bind(end).execute(&rig.db).await.unwrap();
    rig.stripe.advance_by(4 * HOUR);
    let reconciliation = all(&rig, false).await;
    let row = reconciliation
        .rows
        .iter()
        .find(|row| row.usage_type == "export")
        .unwrap();
    assert_eq!((row.numbers.clickhouse_units, row.state), (3, LineState::Ok), "{row:?}");
    assert_eq!(rig.step().await.frozen.periods, 1);
}

//! Late usage that no period follows: open money until it is charged.

use std::process::Output;

use billing_worker::reports::{
    LateUsage,
    reconcile::{LineState, Row, Totals},
};
use devstack::stripe_double::{FaultKind, FaultRule};
use prometheus_client::{encoding::text::encode, registry::Registry};
use schema::period::instant;
use tokio::process::Command;

use super::{
    late::{items, subscribed},
    reconcile::all,
    rig::{Account, HOUR, Rig, month},
};
use crate::SERVICES;

/// 98 exports are on the last invoice, 100 are included, and 12 more come later. Each is 7 cents.
async fn late_after_the_end() -> (Rig, Account) {
    let (rig, account, _) = subscribed(LateUsage::NextPeriod).await;
    rig.use_units(&account, month(0), "export", &[98]).await;
    rig.step().await;
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    rig.finalize(month(0)).await;
    let ended = "update subscriptions set is_current = false";
    sqlx::query(ended).execute(&rig.db).await.unwrap();
    rig.use_units(&account, month(0), "export", &[12]).await;
    rig.step().await;
    (rig, account)
}

async fn exports(rig: &Rig) -> (Row, Totals) {
    let reconciliation = all(rig, false).await;
    let mut rows = reconciliation.rows.into_iter();
    (
        rows.find(|row| row.usage_type == "export").unwrap(),
        reconciliation.totals,
    )
}

async fn reconcile(rig: &Rig) -> Output {
    let mut command = Command::new(SERVICES);
    command
        .args(["service", "billing-worker", "reconcile"])
        .envs(rig.env())
        .kill_on_drop(true);
    command.output().await.unwrap()
}

fn open_money(rig: &Rig) -> Option<i64> {
    let (mut registry, mut page) = (Registry::default(), String::new());
    rig.reporter.metrics.register(&mut registry);
    encode(&mut page, &registry).unwrap();
    let name = r#"open_money_cents{kind="charge",currency="usd"} "#;
    page.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_after_the_last_invoice_is_charged_once_and_open_until_then() {
    let (rig, account) = late_after_the_end().await;
    let (row, totals) = exports(&rig).await;
    assert_eq!((row.state, totals.open, totals.overdue), (LineState::Open, 1, 0));
    let waiting = row.waiting.unwrap();
    assert_eq!((waiting.units, waiting.amount_cents), (12, Some(70)));
    assert_eq!(open_money(&rig), Some(70));
    let shown = reconcile(&rig).await;
    assert!(shown.status.success(), "{shown:?}");
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("open: 12 late units are on no invoice (70 cents, usd)"),
        "{shown}"
    );
    assert_eq!(items(&rig, &account).await, [0; 0], "a next period may still come");

    // None has come. Stripe makes the item, and its response is lost. By now nothing else of the account is open.
    rig.stripe.advance_by(HOUR + 60);
    let lost = FaultRule::new(FaultKind::ServerError)
        .path("/v1/invoiceitems")
        .method("POST");
    rig.stripe.add_fault(lost.after());
    assert_eq!(rig.step().await.frozen.periods, 1);
    assert_eq!(items(&rig, &account).await, [70]);
    assert_eq!(exports(&rig).await.1.open, 1);
    rig.stripe.advance_by(25 * HOUR);
    let (row, totals) = exports(&rig).await;
    assert_eq!((row.state, totals.overdue), (LineState::Open, 1));
    // The command has the real clock.
    let aged = "update meter_carries set created_at = now() - interval '25 hours'";
    sqlx::query(aged).execute(&rig.db).await.unwrap();
    let failed = reconcile(&rig).await;
    let why = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{why}");
    assert!(why.contains("late usage that is on no invoice"), "{why}");

    rig.stripe.clear_faults();
    for _ in 0..2 {
        rig.step().await;
        assert_eq!(items(&rig, &account).await, [70]);
        let (row, totals) = exports(&rig).await;
        assert_eq!((row.state, totals.open), (LineState::Ok, 0));
        assert_eq!(open_money(&rig), None);
    }
    assert!(reconcile(&rig).await.status.success());
    rig.stripe.advance_by(2 * HOUR);
    let invoices = rig.stripe.invoices(&account.customer);
    let totals: Vec<_> = invoices.iter().map(|invoice| invoice["total"].as_i64()).collect();
    assert_eq!(totals, [Some(70)]);
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_usage_of_an_ended_subscription_does_not_get_the_prices_of_the_next_one() {
    let (rig, account) = late_after_the_end().await;
    rig.add_period(std::slice::from_ref(&account), month(1)).await;
    let another = "update billing_periods set stripe_subscription_id = 'sub_another' where final_at is null";
    sqlx::query(another).execute(&rig.db).await.unwrap();
    rig.stripe.advance_by(HOUR + 60);
    rig.step().await;
    assert_eq!(rig.reported(&account, month(1), "export"), 0);
    assert_eq!(items(&rig, &account).await, [70]);
    rig.assert_told_is_counted(&[account], &[month(0), month(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_usage_of_a_trial_is_free() {
    let (rig, account) = late_after_the_end().await;
    let trial = "update subscriptions set trial_ends_at = period_end";
    sqlx::query(trial).execute(&rig.db).await.unwrap();
    rig.stripe.advance_by(HOUR + 60);
    rig.step().await;
    assert_eq!(items(&rig, &account).await, [0; 0]);
    assert_eq!(exports(&rig).await.1.open, 0);
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_usage_of_a_trial_is_not_billed_in_the_paid_period_that_follows() {
    let (rig, account, _) = subscribed(LateUsage::NextPeriod).await;
    let trial = "update subscriptions set trial_ends_at = $1";
    sqlx::query(trial)
        .bind(instant(month(0).end))
        .execute(&rig.db)
        .await
        .unwrap();
    rig.use_units(&account, month(0), "export", &[98]).await;
    rig.step().await;
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    rig.finalize(month(0)).await;
    rig.add_period(std::slice::from_ref(&account), month(1)).await;
    let same = "update billing_periods p set stripe_subscription_id = s.stripe_subscription_id from subscriptions s";
    sqlx::query(same).execute(&rig.db).await.unwrap();
    rig.use_units(&account, month(0), "export", &[12]).await;
    rig.use_units(&account, month(1), "export", &[5]).await;
    // A carry that an earlier version left waiting.
    sqlx::query(
        "insert into meter_carries (id, account_id, usage_type, from_period, units, reason, policy, customer_id,
             next_attempt_at, created_at)
         values (gen_random_uuid(), $1, 'export', $2, -3, 'final', 'next_period', $3, now(), now())",
    )
    .bind(account.id.0)
    .bind(instant(month(0).start))
    .bind(&account.customer)
    .execute(&rig.db)
    .await
    .unwrap();
    let out = "update meter_ledger set carried_out = -3 where usage_type = 'export' and period_start = $1";
    sqlx::query(out)
        .bind(instant(month(0).start))
        .execute(&rig.db)
        .await
        .unwrap();
    rig.correct(&account, month(0), "export", 3).await;
    for _ in 0..3 {
        rig.step().await;
    }
    assert_eq!(rig.reported(&account, month(1), "export"), 5);
    assert_eq!(items(&rig, &account).await, [0; 0]);
    let carries: Vec<(i64, String, bool)> =
        sqlx::query_as("select units, policy, settled_at is not null from meter_carries order by units")
            .fetch_all(&rig.db)
            .await
            .unwrap();
    let credit = (-3, "credit".to_owned(), true);
    assert_eq!(carries, [credit, (12, "charge".to_owned(), true)]);
    rig.assert_told_is_counted(&[account], &[month(0), month(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_usage_that_the_plan_does_not_bill_is_no_open_money() {
    let (rig, account) = late_after_the_end().await;
    assert_eq!(exports(&rig).await.1.open, 1, "its price is not known");
    let known = "update billing_periods set plan_id = 'pro'";
    sqlx::query(known).execute(&rig.db).await.unwrap();
    let (row, totals) = exports(&rig).await;
    assert_eq!((row.state, row.waiting, totals.open), (LineState::Ok, None, 0));
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

//! Several workers at the same time.

use billing_worker::reports::{self, Reporter};
use devstack::stripe_double::{FaultKind, FaultRule};
use harness::eventually;
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    late::charging,
    rig::{HOUR, Rig, month},
};

#[tokio::test(flavor = "multi_thread")]
async fn workers_at_the_same_time_report_each_unit_once() {
    let rig = Rig::start().await;
    let accounts = rig.accounts(40, month(0)).await;
    for _ in 0..5 {
        let usage = accounts.iter().map(|account| (account.id, "api_call", 7));
        rig.insert(month(0), usage, Uuid::nil()).await;
        tokio::join!(rig.step(), rig.step(), rig.step(), rig.step());
    }
    rig.step().await;
    rig.assert_told_is_counted(&accounts, &[month(0)]).await;
}

/// A lock on the reports stops both workers when they have read the same line of the ledger and have written nothing yet.
#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_draft_the_same_account_and_period_at_once_write_one_report() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[1, 10, 100, 1000]).await;
    let now = rig.now();
    let worker = async || Reporter {
        db: PgPool::connect(&rig.database_url).await.unwrap(),
        meters: Default::default(),
        ..rig.reporter.clone()
    };
    let (one, two) = (worker().await, worker().await);
    let mut lock = rig.db.begin().await.unwrap();
    sqlx::query("lock table meter_reports in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let release = async {
        eventually("both workers read the open reports", async || {
            let waiting: i64 = sqlx::query_scalar(
                "select count(distinct pid) from pg_locks
                 where not granted and relation = 'meter_reports'::regclass
                     and database = (select oid from pg_database where datname = current_database())",
            )
            .fetch_one(&rig.db)
            .await
            .unwrap();
            (waiting == 2).then_some(())
        })
        .await;
        lock.commit().await.unwrap();
    };
    let (first, second, ()) = tokio::join!(reports::step(&one, now), reports::step(&two, now), release);
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.written + second.written, 1, "{first:?} {second:?}");
    assert_eq!(first.sent.delivered + second.sent.delivered, 1, "{first:?} {second:?}");
    let rows: Vec<(i64, i64)> = sqlx::query_as("select from_units, to_units from meter_reports")
        .fetch_all(&rig.db)
        .await
        .unwrap();
    assert_eq!(rows, [(0, 1111)]);
    assert_eq!(rig.meter_events(), 1, "Stripe gets one event");
    assert_eq!(rig.step().await, reports::Step::default(), "nothing is left");
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

/// If the billing clock ended claims, a moved clock would let two workers send the same report at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_report_is_left_alone_until_the_database_clock_reaches_the_end_of_the_claim() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[8]).await;
    rig.stripe.add_fault(rig.fault(FaultKind::ServerError).times(1));
    assert_eq!(rig.step().await.sent.postponed, 1);
    rig.stripe.clear_requests();
    claim(&rig, "meter_reports", "5 minutes").await;
    rig.stripe.advance_by(HOUR);
    assert_eq!(rig.step().await.sent.delivered, 0);
    assert_eq!(rig.meter_events(), 0);
    claim(&rig, "meter_reports", "0").await;
    assert_eq!(rig.step().await.sent.delivered, 1);
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claimed_late_usage_is_left_alone_until_the_database_clock_reaches_the_end_of_the_claim() {
    let (rig, account, _) = charging().await;
    rig.use_units(&account, month(0), "export", &[100]).await;
    rig.step().await;
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    rig.finalize(month(0)).await;
    rig.use_units(&account, month(0), "export", &[10]).await;
    let fault = FaultRule::new(FaultKind::ServerError).path("/v1/invoiceitems");
    rig.stripe.add_fault(fault.method("POST"));
    rig.step().await;
    rig.stripe.clear_faults();
    claim(&rig, "meter_carries", "5 minutes").await;
    rig.stripe.advance_by(HOUR / 2);
    rig.step().await;
    assert_eq!(rig.attention().await.waiting_carries.len(), 1);
    claim(&rig, "meter_carries", "0").await;
    rig.step().await;
    assert!(rig.attention().await.waiting_carries.is_empty());
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

/// Another worker claims all rows of the table for this time.
async fn claim(rig: &Rig, table: &str, length: &str) {
    let claimed = format!("update {table} set claimed_until = now() + interval '{length}'");
    let claimed = sqlx::query(sqlx::AssertSqlSafe(claimed))
        .execute(&rig.db)
        .await
        .unwrap();
    assert!(claimed.rows_affected() > 0);
}

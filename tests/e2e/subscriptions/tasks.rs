//! A change that undoes something first loses nothing, wherever it stops.

use std::time::Duration;

use billing_worker::{
    app::periodic,
    error::Error,
    reports::attention::{self, Attention},
    subscriptions::change::{self, CancelWhen, ChangeWhen},
    tasks::{repository, worker},
};
use devstack::{
    StripeDoubleOptions,
    stripe_double::{FaultKind, FaultRule, RefusalKind},
};
use futures_util::future::join_all;
use harness::eventually;
use serde_json::json;
use service::Lifecycle;
use sqlx::PgPool;

use super::{
    planned::{is, planned, team, with_team},
    rig::{Rig, Subscriber},
};

#[derive(Clone, Copy, Debug)]
enum Op {
    Plan(&'static str),
    CancelLater,
    CancelNow,
}

impl Op {
    async fn run(self, rig: &Rig, who: &Subscriber) -> Result<(), Error> {
        match self {
            Self::Plan(plan) => change::change_plan(&rig.billing, who.account, plan, None, ChangeWhen::BySize).await,
            Self::CancelLater => change::cancel(&rig.billing, who.account, CancelWhen::PeriodEnd).await,
            Self::CancelNow => change::cancel(&rig.billing, who.account, CancelWhen::Now).await,
        }
    }
}

async fn open_tasks(rig: &Rig) -> i64 {
    sqlx::query_scalar("select count(*) from stripe_tasks where state <> 'done'")
        .fetch_one(&rig.pool)
        .await
        .unwrap()
}

async fn all_are_due(rig: &Rig) {
    sqlx::query("update stripe_tasks set next_attempt_at = now() where state <> 'done'")
        .execute(&rig.pool)
        .await
        .unwrap();
}

/// Lets the time pass that open tasks wait, and runs them.
async fn run_tasks(rig: &Rig) {
    all_are_due(rig).await;
    worker::step(&rig.billing).await.unwrap();
    assert_eq!(open_tasks(rig).await, 0);
}

async fn attention(rig: &Rig) -> Attention {
    let admin = &rig.billing.admin;
    attention::find(&admin.db, &admin.catalogue).await.unwrap()
}

/// Kills the worker that makes the change after each of its calls to Stripe, and before the first one.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_any_two_calls_loses_no_planned_change() {
    /// More calls than any change makes.
    const CALLS_MAX: usize = 30;
    let rig = Rig::with(StripeDoubleOptions::default(), with_team()).await;
    rig.listen();
    for (first, then, made) in [
        (Op::Plan("pro"), Op::Plan("enterprise"), is("enterprise", false, None)),
        (Op::Plan("pro"), Op::CancelLater, is("team", true, None)),
        (Op::Plan("pro"), Op::CancelNow, is("free", false, None)),
        (Op::CancelLater, Op::Plan("enterprise"), is("enterprise", false, None)),
        (Op::CancelLater, Op::Plan("pro"), is("team", true, Some("pro"))),
    ] {
        let mut is_complete = false;
        for calls in 0..CALLS_MAX {
            let what = format!("{first:?}, then {then:?}, killed after {calls} calls");
            let name = format!("ada-{}", uuid::Uuid::new_v4().simple());
            let ada = rig.subscribed(&name, "team").await;
            first.run(&rig, &ada).await.unwrap();
            rig.settle().await;
            let before = planned(&rig, &ada).await;
            let hangs = FaultRule::new(FaultKind::Hang { ms: 60_000 });
            rig.control().add_fault(hangs.skip(u32::try_from(calls).unwrap()));
            let killed = eventually("the next call of the worker hangs", async || {
                (rig.control().faults_struck() == 1).then_some(())
            });
            tokio::select! {
                done = then.run(&rig, &ada) => {
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
            run_tasks(&rig).await;
            rig.settle().await;
            let stored = planned(&rig, &ada).await;
            assert!(
                stored == before || stored == made,
                "{what}: {stored:?}, before {before:?}"
            );
            if is_complete {
                assert_eq!(stored, made, "{what}");
                break;
            }
            // Nothing is left that blocks the next attempt.
            if stored != made {
                then.run(&rig, &ada).await.unwrap();
                assert_eq!(planned(&rig, &ada).await, made, "{what}: again");
            }
        }
        assert!(is_complete, "{first:?}, {then:?}");
    }
    rig.assert_valid();
}

/// The next change finds what an earlier one undid before it died, also before the task is due.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_after_a_killed_one_keeps_what_was_planned_before_both() {
    let (rig, ada, _) = team().await;
    Op::Plan("pro").run(&rig, &ada).await.unwrap();
    let hang = FaultRule::new(FaultKind::Hang { ms: 60_000 }).method("POST");
    rig.control().add_fault(hang.path("/v1/subscriptions/"));
    let hangs = eventually("the call after the release of the schedule hangs", async || {
        (rig.control().faults_struck() == 1).then_some(())
    });
    tokio::select! {
        done = Op::CancelLater.run(&rig, &ada) => panic!("{done:?}"),
        () = hangs => {}
    }
    let requests = rig.control().requests();
    assert!(requests.iter().any(|request| request.path.ends_with("/release")));
    rig.control().clear_faults();
    let declined = FaultRule::new(FaultKind::Refused(RefusalKind::CardDeclined));
    rig.control()
        .add_fault(declined.method("POST").path("/v1/subscriptions/").times(1));
    let failed = Op::Plan("enterprise").run(&rig, &ada).await.unwrap_err();
    assert!(matches!(failed, Error::PaymentFailed(_)), "{failed:?}");
    assert_eq!(planned(&rig, &ada).await, is("team", true, Some("pro")));
    assert_eq!(open_tasks(&rig).await, 0);
    rig.end_period(&ada).await;
    assert_eq!(planned(&rig, &ada).await, is("pro", false, None));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compensation_that_fails_is_retried_until_done() {
    let (rig, ada, _) = team().await;
    Op::Plan("pro").run(&rig, &ada).await.unwrap();
    let fails = FaultRule::new(FaultKind::ServerError).method("POST");
    rig.control()
        .add_fault(fails.clone().path("/v1/subscriptions/").times(1));
    // The schedule is released, and cannot be made again.
    rig.control()
        .add_fault(fails.path("/v1/subscription_schedules").skip(1));
    let failed = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" })).await;
    assert_eq!(failed.status.as_u16(), 503);
    assert_eq!(planned(&rig, &ada).await, is("team", false, None));

    let life = Lifecycle::new();
    life.spawn(periodic::run_tasks(rig.billing.clone(), life.clone()));
    let task = eventually("the task has failed several times", async || {
        attention(&rig).await.tasks.pop()
    })
    .await;
    assert_eq!((task.account_id, task.kind.as_str()), (ada.account, "restore_plan"));
    assert_eq!(task.state, "due");
    assert!(task.error.unwrap().contains("500"));
    // A day later.
    sqlx::query("update stripe_tasks set created_at = now() - interval '25 h', next_attempt_at = now()")
        .execute(&rig.pool)
        .await
        .unwrap();
    eventually("the task needs attention", async || {
        let counts = repository::counts(&rig.pool).await.unwrap();
        (counts == [("attention".to_owned(), 1)]).then_some(())
    })
    .await;
    rig.control().clear_faults();
    all_are_due(&rig).await;
    eventually("what was planned is planned again", async || {
        (planned(&rig, &ada).await == is("team", true, Some("pro"))).then_some(())
    })
    .await;
    eventually("the task is done", async || (open_tasks(&rig).await == 0).then_some(())).await;
    life.stop();
    assert!(attention(&rig).await.tasks.is_empty());
    rig.end_period(&ada).await;
    assert_eq!(planned(&rig, &ada).await, is("pro", false, None));
    rig.assert_valid();
}

/// Watches the transactions of this database that wait for their client. Never returns.
async fn no_transaction_is_open_for(seconds: f64, db: &PgPool) {
    loop {
        let open: Vec<(f64, String)> = sqlx::query_as(
            "select extract(epoch from clock_timestamp() - xact_start)::float8, query from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid() and state like 'idle in transaction%'",
        )
        .fetch_all(db)
        .await
        .unwrap();
        let held: Vec<_> = open.iter().filter(|(age, _)| *age > seconds).collect();
        assert!(held.is_empty(), "{held:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transaction_is_open_while_stripe_hangs() {
    /// A transaction that includes a call is open for longer than [`OPEN_MAX_S`].
    const HANGS: Duration = Duration::from_secs(4);
    const OPEN_MAX_S: f64 = 3.0;
    let mut rig = Rig::with(StripeDoubleOptions::default(), with_team()).await;
    rig.listen();
    let mut calls = Vec::new();
    for (path, body, subscribed, cancelled) in [
        ("create-checkout-session", json!({ "tier": "pro" }), false, false),
        ("subscriptions", json!({ "tier": "pro" }), false, false),
        ("portal-session", json!({}), true, false),
        ("upgrade", json!({ "tier": "enterprise", "preview": true }), true, false),
        ("upgrade", json!({ "tier": "enterprise" }), true, true),
        ("upgrade", json!({ "tier": "pro" }), true, true),
        ("cancel", json!({}), true, false),
        ("cancel", json!({ "when": "now" }), true, true),
        ("resume", json!({}), true, true),
    ] {
        let name = format!("ada-{}", calls.len());
        let who = match subscribed {
            true => rig.subscribed(&name, "team").await,
            false => rig.subscriber(&name).await,
        };
        if cancelled {
            rig.post(&who, "cancel", json!({})).await.ok().unwrap();
        }
        calls.push((who, path, body));
    }
    rig.settle().await;
    rig.be_patient(Duration::from_secs(30)).await;
    rig.control().set_latency(HANGS);
    let made = join_all(calls.iter().map(|(who, path, body)| {
        let rig = &rig;
        async move {
            let began = tokio::time::Instant::now();
            let answer = rig.post(who, path, body.clone()).await;
            assert!(answer.status.is_success(), "{path} {body}: {answer:?}");
            assert!(began.elapsed() >= HANGS, "{path} {body} asked Stripe");
        }
    }));
    tokio::select! {
        _ = made => {}
        () = no_transaction_is_open_for(OPEN_MAX_S, &rig.pool) => {}
    }
    rig.control().set_latency(Duration::ZERO);
    rig.assert_valid();
}

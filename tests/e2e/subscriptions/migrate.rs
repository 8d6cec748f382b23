//! An operator gives accounts another version of their plan.

use billing_worker::{
    error::Error,
    subscriptions::{
        migrate::{Action, Migrated, Outcome, migrate},
        migration::{self, MigrateWhen, Migration},
    },
    tasks,
};
use devstack::{
    StripeDoubleOptions,
    stripe_double::{FaultKind, FaultRule},
};
use schema::{AccountId, Catalogue};
use serde_json::json;

use super::{
    planned::{is, planned},
    rig::{DAY_S, Rig, Subscriber},
    versions::{last_invoice, old_subscriber, pro, shown},
};

const OLD: [i64; 5] = [1, 2_900, 10_000, 100, 50_000];
const NEW: [i64; 5] = [2, 3_900, 5_000, 500, 40_000];

/// Ada and Ben have Pro since about ten days, when its price changes. Ada has used 40 exports more than are included.
async fn changed() -> (Rig, Subscriber, Subscriber) {
    let (mut rig, ada) = old_subscriber().await;
    let ben = rig.subscribed("ben", "pro").await;
    rig.turn_by(10 * DAY_S);
    rig.use_units(&ada, "export", 140).await;
    rig.roll_out(pro(3_900, 5_000, 500, 40_000)).await;
    (rig, ada, ben)
}

async fn find(rig: &Rig, from: &str, to: &str, when: MigrateWhen) -> Result<Migration, Error> {
    Migration::find(&rig.pool, from, to, when, rig.control().now()).await
}

async fn run(rig: &Rig, who: &Subscriber, migration: &Migration, action: Action) -> Migrated {
    migrate(&rig.billing, who.account, migration, action).await
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_dry_run_says_to_the_cent_what_migrate_then_charges() {
    let (rig, ada, ben) = changed().await;
    let now = find(&rig, "pro@1", "pro@2", MigrateWhen::Now).await.unwrap();
    let accounts = migration::accounts(&rig.pool, now.from.id, AccountId::NIL, 10)
        .await
        .unwrap();
    assert_eq!(accounts, [ada.account, ben.account]);
    for who in [&ada, &ben] {
        let said = run(&rig, who, &now, Action::DryRun).await;
        assert_eq!(said.outcome, Outcome::WouldMigrate, "{said:?}");
        assert_eq!((said.price_cents_now, said.price_cents_then), (2_900, 3_900));
        // About two thirds of the period are left.
        assert!((600..=750).contains(&said.invoiced_now_cents), "{said:?}");
        assert_eq!(last_invoice(&rig, who).await, 2_900);
        assert_eq!(shown(&rig, who).await, OLD);
        // The command runs later, with the time that the dry run printed.
        rig.turn_by(3_600);
        let made = run(&rig, who, &now, Action::Make).await;
        assert_eq!(made.outcome, Outcome::Migrated, "{made:?}");
        assert_eq!(made.invoiced_now_cents, said.invoiced_now_cents);
        rig.settle().await;
        assert_eq!(last_invoice(&rig, who).await, said.invoiced_now_cents);
        assert_eq!(shown(&rig, who).await, NEW);
        // A repeated command does it once.
        assert_eq!(run(&rig, who, &now, Action::Make).await.outcome, Outcome::Already);
    }
    rig.end_period(&ada).await;
    rig.turn_by(2 * 3_600);
    rig.settle().await;
    // Usage from before has the prices of the old version.
    for (who, usage) in [(&ada, 40 * 5), (&ben, 0)] {
        assert_eq!(last_invoice(&rig, who).await, 3_900 + usage);
    }
    let audited: Vec<String> =
        sqlx::query_scalar("select subject from audit_log where action = 'plan.migrate' order by id")
            .fetch_all(&rig.pool)
            .await
            .unwrap();
    assert_eq!(audited, ["pro@2", "pro@2"]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_at_the_periods_end_charges_nothing_before() {
    let (rig, ada, ben) = changed().await;
    rig.post(&ben, "cancel", json!({})).await.ok().unwrap();
    let end = find(&rig, "pro@1", "pro@2", MigrateWhen::PeriodEnd).await.unwrap();
    let said = run(&rig, &ada, &end, Action::DryRun).await;
    assert_eq!((said.outcome, said.invoiced_now_cents), (Outcome::WouldMigrate, 0));
    let period = rig.period(&ada).await;
    assert_eq!(said.effective_at.unwrap().unix_timestamp(), period.end);
    assert_eq!(planned(&rig, &ada).await, is("pro", false, None));
    for outcome in [Outcome::Migrated, Outcome::Already] {
        let made = run(&rig, &ada, &end, Action::Make).await;
        assert_eq!((made.outcome, made.invoiced_now_cents), (outcome, 0), "{made:?}");
        assert_eq!(planned(&rig, &ada).await, is("pro", true, Some("pro")));
        assert_eq!(
            (shown(&rig, &ada).await, last_invoice(&rig, &ada).await),
            (OLD, json!(2_900))
        );
    }
    // Who has cancelled stays cancelled.
    for action in [Action::DryRun, Action::Make] {
        let skipped = run(&rig, &ben, &end, action).await;
        assert_eq!(skipped.outcome, Outcome::Skipped);
        assert_eq!(skipped.reason.as_deref(), Some("it is cancelled"));
    }
    rig.end_period(&ada).await;
    assert_eq!(planned(&rig, &ada).await, is("pro", false, None));
    assert_eq!(shown(&rig, &ada).await, NEW);
    assert_eq!(last_invoice(&rig, &ada).await, 3_900 + 40 * 5);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_stops_in_between_is_completed_once() {
    let (rig, ada, ben) = changed().await;
    let now = find(&rig, "pro@1", "pro@2", MigrateWhen::Now).await.unwrap();
    // Stripe makes the change and its response is lost.
    let reset = FaultRule::new(FaultKind::Reset)
        .method("POST")
        .path("/v1/subscriptions");
    rig.control().add_fault(reset.after().times(1));
    assert_eq!(run(&rig, &ada, &now, Action::Make).await.outcome, Outcome::Migrated);
    // Stripe is unavailable, and the service tries again.
    let fails = FaultRule::new(FaultKind::ServerError)
        .method("POST")
        .path("/v1/subscriptions");
    rig.control().add_fault(fails.times(1));
    let failed = run(&rig, &ben, &now, Action::Make).await;
    assert_eq!(failed.outcome, Outcome::Failed, "{failed:?}");
    assert_eq!(shown(&rig, &ben).await, OLD);
    // Another task may have the account's lease.
    for _ in 0..10 {
        sqlx::query("update stripe_tasks set next_attempt_at = now() where state <> 'done'")
            .execute(&rig.pool)
            .await
            .unwrap();
        tasks::worker::step(&rig.billing).await.unwrap();
        if open(&rig).await == 0 {
            break;
        }
    }
    assert_eq!(open(&rig).await, 0);
    for who in [&ada, &ben] {
        assert_eq!(shown(&rig, who).await, NEW);
        let invoices = rig.get(who, "invoices").await;
        assert_eq!(invoices["items"].as_array().unwrap().len(), 2);
    }
    rig.assert_valid();
}

/// How many tasks are open. One that removes metered items waits for the end of the period.
async fn open(rig: &Rig) -> i64 {
    sqlx::query_scalar("select count(*) from stripe_tasks where state <> 'done' and kind <> 'remove_items'")
        .fetch_one(&rig.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_bills_a_limited_type_bills_only_what_comes_after() {
    let options = StripeDoubleOptions {
        start_at: Some(1_800_000_010),
        ..StripeDoubleOptions::default()
    };
    let mut rig = Rig::with(options, Catalogue::built_in()).await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    rig.turn_by(10 * DAY_S);
    rig.use_units(&ada, "export", 60).await;
    rig.roll_out(pro(2_900, 10_000, 10, 50_000)).await;
    let now = find(&rig, "pro@1", "pro@2", MigrateWhen::Now).await.unwrap();
    assert_eq!(run(&rig, &ada, &now, Action::Make).await.outcome, Outcome::Migrated);
    rig.turn_by(3_600);
    let segment = rig.segment(&ada).await;
    rig.admitted(&ada, segment, &[("export", 30)]).await;
    rig.end_period(&ada).await;
    assert_eq!(last_invoice(&rig, &ada).await, 2_900 + 20 * 5);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_bill_usage_alike_share_its_meters() {
    let (mut rig, ada) = old_subscriber().await;
    rig.turn_by(10 * DAY_S);
    rig.use_units(&ada, "export", 140).await;
    rig.roll_out(pro(3_900, 10_000, 100, 50_000)).await;
    let now = find(&rig, "pro@1", "pro@2", MigrateWhen::Now).await.unwrap();
    assert_eq!(run(&rig, &ada, &now, Action::Make).await.outcome, Outcome::Migrated);
    rig.use_units(&ada, "export", 10).await;
    let segments: Vec<(i16, bool)> = sqlx::query_as(
        "select p.meter_slot, p.version_id = s.version_id from billing_periods p join subscriptions s using (stripe_subscription_id)
         where p.account_id = $1",
    )
    .bind(ada.account.0)
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    assert_eq!(segments, [(0, true)], "what is included is for the whole period");
    rig.end_period(&ada).await;
    assert_eq!(last_invoice(&rig, &ada).await, 3_900 + 50 * 5);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_only_get_the_current_version() {
    let (rig, ..) = changed().await;
    for (from, to) in [
        ("pro@2", "pro@1"),
        ("pro@1", "pro@9"),
        ("pro@9", "pro@2"),
        ("gold@1", "pro@2"),
    ] {
        let refused = find(&rig, from, to, MigrateWhen::Now).await.unwrap_err();
        assert!(matches!(refused, Error::VersionGone { .. }), "{from} {to}: {refused}");
    }
    for (from, to) in [
        ("pro", "pro@2"),
        ("pro@x", "pro@2"),
        ("pro@2", "pro@2"),
        ("free@1", "pro@2"),
    ] {
        find(&rig, from, to, MigrateWhen::Now).await.unwrap_err();
    }
}

//! One worker at a time works on an account's subscriptions, and no account waits for another's.

use billing_worker::{accounts::customers, administration::By, error::Error, subscriptions::refresh, webhook::worker};
use devstack::stripe_double::{FaultKind, FaultRule};
use harness::eventually;
use serde_json::json;
use service::Lifecycle;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::rig::{Rig, Subscriber};

/// Gives the account's lease to another worker, which holds it until the deadline. The worker may be alive or dead.
async fn hold_elsewhere(rig: &Rig, who: &Subscriber, seconds: f64) {
    sqlx::query(
        "insert into subscription_leases (account_id, holder, held_until)
         values ($1, gen_random_uuid(), now() + make_interval(secs => $2))
         on conflict (account_id) do update set holder = excluded.holder, held_until = excluded.held_until",
    )
    .bind(who.account.0)
    .bind(seconds)
    .execute(&rig.pool)
    .await
    .unwrap();
}

async fn give_back(rig: &Rig, who: &Subscriber) {
    sqlx::query("delete from subscription_leases where account_id = $1")
        .bind(who.account.0)
        .execute(&rig.pool)
        .await
        .unwrap();
}

/// An event about the account's customer arrives.
async fn event(rig: &Rig, who: &Subscriber) -> String {
    let customer = customers::ensure(&rig.billing, who.account).await.unwrap();
    let id = format!("evt_{}", Uuid::new_v4());
    sqlx::query(
        "insert into webhook_events (id, type, created_at, livemode, customer_id, payload)
         values ($1, 'customer.subscription.updated', now(), false, $2, '')",
    )
    .bind(&id)
    .bind(customer)
    .execute(&rig.pool)
    .await
    .unwrap();
    id
}

async fn state(pool: &PgPool, event: &str) -> (String, i32) {
    sqlx::query_as("select state, attempts from webhook_events where id = $1")
        .bind(event)
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn is_done(rig: &Rig, event: &str) {
    eventually("the event is done", async || {
        (state(&rig.pool, event).await.0 == "done").then_some(())
    })
    .await;
}

/// The worker's loop over the inbox. Dropping it stops the loop.
struct Working(Lifecycle);

impl Working {
    fn start(rig: &Rig) -> Self {
        let life = Lifecycle::new();
        let billing = rig.billing.by(By::Stripe);
        life.spawn(worker::run(
            billing,
            rig.metrics.clone(),
            Default::default(),
            life.clone(),
        ));
        Self(life)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A lock that is held across calls to Stripe would block the events of all other accounts.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_another_worker_holds_delays_no_other_account() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.subscriber("ada").await, rig.subscriber("bob").await);
    hold_elsewhere(&rig, &ada, 3_600.0).await;
    let _working = Working::start(&rig);
    let waits = event(&rig, &ada).await;
    eventually("the worker has met the lease", async || {
        let tried: bool = sqlx::query_scalar(
            "select claimed_until is not null or next_attempt_at > received_at from webhook_events where id = $1",
        )
        .bind(&waits)
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        tried.then_some(())
    })
    .await;
    let goes_on = event(&rig, &bob).await;
    is_done(&rig, &goes_on).await;
    assert_eq!(state(&rig.pool, &waits).await.0, "received");
    give_back(&rig, &ada).await;
    is_done(&rig, &waits).await;
    assert_eq!(
        state(&rig.pool, &waits).await.1,
        1,
        "waiting for a lease is not an attempt"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_leases_and_claims_pass_to_another_at_their_deadline_and_not_before() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.subscriber("ada").await, rig.subscriber("bob").await);
    let (leased, claimed) = (event(&rig, &ada).await, event(&rig, &bob).await);
    hold_elsewhere(&rig, &ada, 4.0).await;
    sqlx::query(
        "update webhook_events set claimed_by = gen_random_uuid(), claimed_until = now() + interval '4 s', attempts = 1
         where id = $1",
    )
    .bind(&claimed)
    .execute(&rig.pool)
    .await
    .unwrap();
    // A later event of the same customer waits for the claim, too.
    let follows = event(&rig, &bob).await;
    let (lease_ends, claim_ends): (OffsetDateTime, OffsetDateTime) = sqlx::query_as(
        "select (select held_until from subscription_leases), (select max(claimed_until) from webhook_events)",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    let _working = Working::start(&rig);
    for (event, deadline) in [(&leased, lease_ends), (&claimed, claim_ends), (&follows, claim_ends)] {
        is_done(&rig, event).await;
        let done_at: OffsetDateTime = sqlx::query_scalar("select done_at from webhook_events where id = $1")
            .bind(event)
            .fetch_one(&rig.pool)
            .await
            .unwrap();
        assert!(done_at >= deadline, "{done_at} {deadline}");
    }
    assert_eq!(rig.changes().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_lease_stores_nothing() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    rig.check_out(&ada, "pro").await;
    let hang = FaultRule::new(FaultKind::Hang { ms: 1_000 }).path("/v1/subscriptions");
    rig.control().add_fault(hang.times(1));
    let taken_over = async {
        eventually("Stripe is asked", async || (rig.changes().await == 1).then_some(())).await;
        hold_elsewhere(&rig, &ada, 1.0).await;
    };
    let (refreshed, ()) = tokio::join!(refresh::refresh(&rig.billing, ada.account), taken_over);
    assert!(matches!(refreshed, Err(Error::LeaseLost)), "{refreshed:?}");
    assert_eq!(rig.subscription(&ada).await["tier"], "free");
    assert!(refresh::refresh(&rig.billing, ada.account).await.unwrap());
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_with_a_lost_lease_is_made_once_and_read_again() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let hang = FaultRule::new(FaultKind::Hang { ms: 1_000 })
        .path("/v1/subscriptions/")
        .method("POST");
    rig.control().add_fault(hang.times(2));
    let taken_over = async {
        eventually("Stripe is asked to upgrade", async || {
            let requests = rig.control().requests();
            let upgrade = requests
                .iter()
                .any(|request| request.method == "POST" && request.path.starts_with("/v1/subscriptions/"));
            upgrade.then_some(())
        })
        .await;
        hold_elsewhere(&rig, &ada, 1.0).await;
    };
    let upgrade = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }));
    let (upgraded, ()) = tokio::join!(upgrade, taken_over);
    assert_eq!(upgraded.ok().unwrap()["tier"], "enterprise");
    let customer = rig.customers(&ada).remove(0);
    assert_eq!(
        rig.control().invoices(&customer).len(),
        2,
        "the first, and one for the upgrade"
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_it_is_held_and_released_when_it_is_dropped() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    let lease = rig.billing.lease(ada.account).await.unwrap();
    sqlx::query("update subscription_leases set held_until = now()")
        .execute(&rig.pool)
        .await
        .unwrap();
    eventually("the lease is renewed", async || {
        (rig.changes().await == 1).then_some(())
    })
    .await;
    drop(lease);
    eventually("the lease is released", async || {
        let rows: i64 = sqlx::query_scalar("select count(*) from subscription_leases")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
        (rows == 0).then_some(())
    })
    .await;
}

/// A client that hangs up drops its request at any moment, also while PostgreSQL executes the statement that takes the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_dropped_while_it_takes_the_lease_keeps_it_from_nobody() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    let mut blocker = rig.pool.begin().await.unwrap();
    sqlx::query("lock table subscription_leases in access exclusive mode")
        .execute(&mut *blocker)
        .await
        .unwrap();
    let waits = eventually("the statement waits in PostgreSQL", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%insert into subscription_leases%'",
        )
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    });
    let billing = rig.billing.by(By::Customer);
    tokio::select! {
        _ = billing.lease(ada.account) => panic!("the lease was taken from a locked table"),
        () = waits => {}
    }
    blocker.rollback().await.unwrap();
    // A caller waits 10 s, and a lease that nobody releases lasts 30 s.
    billing.lease(ada.account).await.unwrap().release().await;
    let left: i64 = sqlx::query_scalar("select count(*) from subscription_leases")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

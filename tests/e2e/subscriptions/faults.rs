use billing_worker::accounts::customers;
use devstack::{
    StripeDoubleOptions,
    stripe_double::{FaultKind, FaultRule},
};
use futures_util::future::join_all;
use harness::eventually;
use schema::{Catalogue, Scope};
use serde_json::json;

use super::rig::{DAY_S, Rig, Subscriber};

const KINDS: [FaultKind; 6] = [
    FaultKind::TooManyRequests { retry_after_s: Some(1) },
    FaultKind::TooManyRequests { retry_after_s: None },
    FaultKind::ServerError,
    FaultKind::Reset,
    FaultKind::CutBody,
    FaultKind::BrokenJson,
];

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_concurrent_checkouts_create_one_customer_and_one_session() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    // A key may have eight requests in progress.
    let other = Subscriber {
        account: ada.account,
        key: rig.key(ada.account, &Scope::ALL).await,
    };
    let keys = [ada.clone(), other];
    let calls = (0..16).map(|n| rig.post(&keys[n % 2], "create-checkout-session", json!({ "tier": "pro" })));
    let opened: Vec<_> = join_all(calls)
        .await
        .into_iter()
        .map(|answer| answer.ok().unwrap())
        .collect();
    assert!(opened.iter().all(|one| one == &opened[0]), "{opened:?}");
    assert_eq!(rig.customers(&ada).len(), 1);
    // A checkout for another plan closes it: only one of the two can be paid.
    let other = rig
        .post(&ada, "create-checkout-session", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    let closed = rig
        .control()
        .complete_checkout(opened[0]["session_id"].as_str().unwrap());
    assert!(closed.is_err());
    rig.control()
        .complete_checkout(other["session_id"].as_str().unwrap())
        .unwrap();
    rig.settle().await;
    let second = rig
        .post(&ada, "create-checkout-session", json!({ "tier": "pro" }))
        .await;
    assert_eq!(
        (second.status.as_u16(), second.json().unwrap()["error"].as_str()),
        (409, Some("already_subscribed"))
    );
    rig.assert_valid();
}

/// A gateway locks the account's row in share mode to open a pool, and all leases wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_stripe_blocks_no_gateway() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let hang = FaultRule::new(FaultKind::Hang { ms: 1_000 }).path("/v1/subscriptions");
    rig.control().add_fault(hang);
    let gateway = async {
        eventually("Stripe is asked", async || (rig.changes().await == 1).then_some(())).await;
        let share = "select id from accounts where id = $1 for share nowait";
        let share = sqlx::query(share).bind(ada.account.0).execute(&rig.pool).await;
        assert_eq!(share.unwrap().rows_affected(), 1);
        assert_eq!(rig.changes().await, 1, "Stripe was asked during that time");
        rig.control().clear_faults();
    };
    let upgrade = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }));
    let (upgraded, ()) = tokio::join!(upgrade, gateway);
    assert_eq!(upgraded.ok().unwrap()["tier"], "enterprise");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_one_customer_and_one_subscription_whatever_stripe_responds() {
    for kind in KINDS {
        for rule in [FaultRule::new(kind), FaultRule::new(kind).after()] {
            let what = format!("{kind:?} {:?}", rule.moment);
            let rig = Rig::start().await;
            rig.listen();
            let ada = rig.subscriber("ada").await;
            for path in ["/v1/customers", "/v1/checkout/sessions", "/v1/subscriptions"] {
                rig.control().add_fault(rule.clone().path(path).times(1));
            }
            let mut session = None;
            // The client retries, as the response asks.
            for _ in 0..6 {
                let answer = rig
                    .post(&ada, "create-checkout-session", json!({ "tier": "pro" }))
                    .await;
                if answer.status.is_success() {
                    session = Some(answer.json().unwrap()["session_id"].as_str().unwrap().to_owned());
                    break;
                }
                let problem = answer.json().unwrap();
                assert_eq!(answer.status.as_u16(), 503, "{what}: {problem}");
                assert!(answer.header("retry-after").is_some(), "{what}");
            }
            rig.control().clear_faults();
            rig.control().complete_checkout(&session.unwrap()).unwrap();
            rig.settle().await;
            assert_eq!(rig.subscription(&ada).await["tier"], "pro", "{what}");
            let customers = rig.customers(&ada);
            assert_eq!(customers.len(), 1, "{what}");
            assert_eq!(rig.control().subscriptions(&customers[0]).len(), 1, "{what}");
            rig.assert_valid();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_stripe_created_the_customer_causes_no_second_one_even_a_day_later() {
    for later_s in [0, 2 * DAY_S] {
        let rig = Rig::start().await;
        rig.listen();
        let ada = rig.subscriber("ada").await;
        let hang = FaultRule::new(FaultKind::Hang { ms: 60_000 }).after();
        rig.control()
            .add_fault(hang.path("/v1/customers").method("POST").times(1));
        let call = customers::ensure(&rig.billing, ada.account);
        let made = eventually("Stripe has made the customer", async || {
            (rig.customers(&ada).len() == 1).then_some(())
        });
        // The request is cancelled while Stripe's response is on its way, so nothing of it was stored.
        tokio::select! {
            _ = call => panic!("Stripe's answer hangs"),
            () = made => {}
        }
        rig.control().clear_faults();
        rig.turn_by(later_s);
        rig.check_out(&ada, "pro").await;
        rig.settle().await;
        assert_eq!(rig.customers(&ada).len(), 1, "{later_s} s later");
        assert_eq!(rig.subscription(&ada).await["tier"], "pro");
        rig.assert_valid();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_with_a_lost_response_is_charged_once() {
    for kind in [
        FaultKind::Reset,
        FaultKind::CutBody,
        FaultKind::ServerError,
        FaultKind::BrokenJson,
    ] {
        let rig = Rig::start().await;
        rig.listen();
        let ada = rig.subscribed("ada", "pro").await;
        rig.turn_by(10 * DAY_S);
        let lost = FaultRule::new(kind)
            .after()
            .path("/v1/subscriptions/")
            .method("POST")
            .times(1);
        rig.control().add_fault(lost);
        let first = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" })).await;
        if !first.status.is_success() {
            assert_eq!(first.status.as_u16(), 503, "{kind:?}");
            rig.settle().await;
            let again = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" })).await;
            assert_eq!(
                again.json().unwrap()["error"],
                "same_plan",
                "{kind:?}: the first upgrade took effect"
            );
        }
        rig.settle().await;
        assert_eq!(rig.subscription(&ada).await["tier"], "enterprise", "{kind:?}");
        let customer = rig.customers(&ada).remove(0);
        assert_eq!(
            rig.control().invoices(&customer).len(),
            2,
            "{kind:?}: the first, and one for the upgrade"
        );
        rig.assert_valid();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_while_stripe_does_not_respond() {
    let rig = Rig::with(StripeDoubleOptions::default(), Catalogue::built_in()).await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    rig.check_out(&ada, "pro").await;
    rig.control().settle_webhooks(harness::PATIENCE).await.unwrap();
    rig.control().add_fault(FaultRule::new(FaultKind::Reset));
    billing_worker::webhook::worker::step(&rig.billing, &rig.metrics)
        .await
        .unwrap();
    let waiting: i64 =
        sqlx::query_scalar("select count(*) from webhook_events where state = 'received' and error is not null")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert!(waiting > 0);
    assert_eq!(rig.subscription(&ada).await["tier"], "free");
    rig.control().clear_faults();
    rig.work().await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
}

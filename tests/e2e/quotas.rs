//! G3 for the decisions of gateways: limits are hard and refusals are correct with several gateways on one pool, through lost
//! connections, lost responses, new periods and changed limits. In the end all unspent units are back in Postgres.

mod agreement;
mod changes;
mod cuts;
mod heard;
mod lowered;
mod recall;
mod rig;

use std::{sync::Arc, time::Duration};

use gateway::{
    accounts::AccountSettings,
    quota::{Admission, QuotaSettings, Refusal},
};
use harness::eventually;
use schema::clock;

use self::rig::{Database, drain, stop_all};

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_with_64_clients_each_admit_exactly_the_limit() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    database.set_limit(&customer, calls, 1_000).await;
    let gateways = vec![Arc::new(database.gateway().await), Arc::new(database.gateway().await)];

    let spent = drain(&gateways, &customer, calls, &[1; 64]).await;

    assert_eq!(spent, 1_000);
    stop_all(gateways).await;
    database.assert_settled(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_of_all_sizes_fill_the_limit_to_the_last_unit() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    database.set_limit(&customer, calls, 9_999).await;
    let gateways = vec![Arc::new(database.gateway().await)];

    let spent = drain(&gateways, &customer, calls, &[1, 2, 3, 7, 20, 100, 1, 333]).await;

    assert_eq!(spent, 9_999);
    stop_all(gateways).await;
    database.assert_settled(9_999).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_refuses_only_if_its_leases_and_the_pool_together_have_too_few_units() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    // Free: 100 calls. Afterwards the gateway holds leases of different sizes, and the pool has units left.
    let mut spent = 0;
    for cost in [3, 11, 9] {
        gateway.admit(&account, calls, cost).await.unwrap().spent();
        spent += cost;
    }
    let all = 100 - spent;
    assert!(gateway.quotas.check(&account, calls, all, clock::now_s()).await.is_ok());
    assert!(
        gateway
            .quotas
            .check(&account, calls, all + 1, clock::now_s())
            .await
            .is_err()
    );
    let Err(Refusal::LimitReached(view)) = gateway.admit(&account, calls, all + 1).await else {
        panic!("{} of {all} units admitted", all + 1);
    };
    assert_eq!((view.limit, view.current_usage, view.remaining), (100, spent, all));
    gateway.admit(&account, calls, all).await.unwrap().spent();
    assert!(gateway.admit(&account, calls, 1).await.is_err());
    let view = gateway.quotas.view(&account, clock::now_s()).await.unwrap();
    assert_eq!(
        (view[0].0, view[0].1.current_usage, view[0].1.remaining),
        (calls, 100, 0)
    );
    assert_eq!(
        (view[1].1.current_usage, view[1].1.remaining, view[1].1.limit),
        (0, 5, 5)
    );
    gateway.stop().await;
    database.assert_settled(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_failed_requests_are_spent_by_others() {
    let database = Database::open().await;
    let (customer, exports) = (database.customer().await, database.usage_type("export"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(gateway.admit(&account, exports, 1).await.unwrap());
    }
    assert!(gateway.admit(&account, exports, 1).await.is_err());
    drop(held.pop());
    gateway.admit(&account, exports, 1).await.unwrap().spent();
    assert!(gateway.admit(&account, exports, 1).await.is_err());
    held.into_iter().for_each(Admission::spent);
    gateway.stop().await;
    database.assert_settled(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_run_gets_no_lease_and_the_next_one_does() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    let mut lost = gateway.quotas.run_lost();
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    let (granted, _) = database.pools().await;

    database.set_run_state(gateway.run, "fencing").await;
    // Held units are still spent. After that, every request is refused.
    let mut admitted = 1;
    while let Ok(admission) = gateway.admit(&account, calls, 1).await {
        admission.spent();
        admitted += 1;
    }
    assert_eq!(admitted, granted);
    assert_eq!(*lost.wait_for(Option::is_some).await.unwrap(), Some(gateway.run));

    gateway.quotas.drop_run();
    let next = database.register_run().await;
    gateway.quotas.start_run(next);
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    gateway.stop().await;
    let live: Vec<(uuid::Uuid, i64)> =
        sqlx::query_as("select run_id, units - returned_units from quota_leases where state = 'live'")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    assert_eq!(
        live.iter().map(|(_, units)| units).sum::<i64>(),
        granted,
        "the leases of the fenced run remain until it is settled"
    );
    assert!(live.iter().all(|(run, _)| *run != next.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spooling_run_gets_leases_like_a_live_one() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    database.set_run_state(gateway.run, "spooling").await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    assert_eq!(*gateway.quotas.run_lost().borrow(), None);
    database.set_run_state(gateway.run, "live").await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    gateway.stop().await;
    database.assert_settled(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn return_all_waits_for_requests_in_progress() {
    let database = Database::open().await;
    let customer = database.customer().await;
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    let mut held = Vec::new();
    for usage_type in database.catalogue.usage_types() {
        held.push(gateway.admit(&account, *usage_type, 2).await.unwrap());
        held.push(gateway.admit(&account, *usage_type, 1).await.unwrap());
    }
    let (spent, failed) = (held.split_off(3), held);
    let finish = async {
        eventually("all units except reserved ones are returned", async || {
            (database.pools().await.0 == 9).then_some(())
        })
        .await;
        drop(failed);
        spent.into_iter().for_each(Admission::spent);
    };
    tokio::join!(gateway.quotas.return_all(), finish);
    database.assert_settled(4).await;
    assert_eq!(
        gateway
            .admit(&account, database.usage_type("export"), 1)
            .await
            .unwrap_err(),
        Refusal::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_counters_give_their_units_back() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let settings = QuotaSettings {
        idle_after: Duration::from_millis(200),
        ..QuotaSettings::default()
    };
    let gateway = database
        .gateway_with(&database.url, settings, AccountSettings::default())
        .await;
    let account = gateway.account(&customer).await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    eventually("the lease is returned", async || {
        (database.pools().await == (1, 0)).then_some(())
    })
    .await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    gateway.stop().await;
    database.assert_settled(2).await;
}

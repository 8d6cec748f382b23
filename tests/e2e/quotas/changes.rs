//! New periods, limits, plans and keys, announced or found by a refresh.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gateway::{
    accounts::{AccountSettings, AuthError},
    quota::{QuotaSettings, Refusal},
};
use harness::{eventually, wait::SOON};
use schema::{Period, announcement::Announcement, api_key::ApiKey, clock};

use super::rig::{Customer, Database};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_period_is_a_new_pool() {
    let database = Database::open().await;
    let (customer, exports) = (database.customer().await, database.usage_type("export"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    let mut now = clock::now_s();
    for month in 0..3 {
        let period = Period::calendar_month(now);
        for n in 0..5 {
            let admission = gateway.quotas.admit(&account, exports, 1, now).await.unwrap();
            assert_eq!(admission.quota.period, period, "request {n} of month {month}");
            admission.spent();
        }
        assert!(gateway.quotas.admit(&account, exports, 1, now).await.is_err());
        now = period.end;
    }
    gateway.stop().await;
    database.assert_settled(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_applies_from_its_announcement() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    for _ in 0..10 {
        gateway.admit(&account, calls, 1).await.unwrap().spent();
    }
    let in_flight = gateway.admit(&account, calls, 3).await.unwrap();

    database.set_limit(&customer, calls, 14).await;
    gateway.notify(&customer).await;
    let admission = gateway.admit(&account, calls, 1).await.unwrap();
    assert_eq!(admission.quota.limit, 14);
    admission.spent();
    assert!(gateway.admit(&account, calls, 1).await.is_err());
    // A request in progress fails. Its units can be spent again, but only up to the new limit.
    drop(in_flight);
    gateway.admit(&account, calls, 3).await.unwrap().spent();
    assert!(gateway.admit(&account, calls, 1).await.is_err());

    database.set_limit(&customer, calls, 5).await;
    gateway.notify(&customer).await;
    assert!(
        gateway.admit(&account, calls, 1).await.is_err(),
        "14 units are spent, but the limit is 5"
    );
    database.set_limit(&customer, calls, 15).await;
    gateway.notify(&customer).await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    assert!(gateway.admit(&account, calls, 1).await.is_err());
    gateway.stop().await;
    database.assert_settled(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unannounced_change_of_plan_opens_no_pool_with_the_old_limit() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let exports = database.usage_type("export");
    let now = clock::now_s();
    let period = Period::anchored_month(now - 1_000, now);
    database.subscribe(&customer, "pro", period).await;
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();

    database.subscribe(&customer, "enterprise", period).await;
    // Answers 503 until the account is read again, which happens at once and not at the next refresh.
    let admission = eventually("the account is read again", async || {
        gateway.admit(&account, exports, 1).await.ok()
    })
    .await;
    assert_eq!(admission.quota.limit, 1_000);
    admission.spent();
    let limit: i64 = sqlx::query_scalar("select limit_units from quota_pool where usage_type = 'export'")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(limit, 1_000);
    gateway.stop().await;
    database.assert_settled(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_take_effect_when_they_are_announced() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let gateway = database.gateway().await;
    let client = database.nats().await;
    let announce = async |announcement: Announcement| {
        let payload = serde_json::to_vec(&announcement).unwrap();
        client.publish(announcement.subject(), payload.into()).await.unwrap();
        client.flush().await.unwrap();
    };
    let account_changed = Announcement::AccountChanged {
        account_id: customer.id,
    };

    let account = gateway.account(&customer).await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    for (status, admitted) in [("suspended", false), ("active", true)] {
        database.set_status(&customer, status).await;
        announce(account_changed.clone()).await;
        let announced = Instant::now();
        eventually(status, async || match gateway.admit(&account, calls, 1).await {
            Ok(admission) => {
                drop(admission);
                admitted.then_some(())
            }
            Err(Refusal::Suspended) => (!admitted).then_some(()),
            Err(refusal) => panic!("{refusal:?}"),
        })
        .await;
        assert!(announced.elapsed() < SOON, "{status}: {:?}", announced.elapsed());
    }

    let another = Customer {
        id: customer.id,
        key: ApiKey::generate(),
    };
    let key_changed = Announcement::KeyChanged {
        key_id: another.key.id(),
        account_id: customer.id,
    };
    let authenticate = async || {
        gateway
            .accounts
            .authenticate(another.key.reveal(), clock::now_s())
            .await
    };
    assert_eq!(authenticate().await.err(), Some(AuthError::Unknown));
    database.insert_key(&another).await;
    assert_eq!(
        authenticate().await.err(),
        Some(AuthError::Unknown),
        "the gateway remembers that the key is unknown"
    );
    announce(key_changed.clone()).await;
    let key = eventually("the new key works", async || authenticate().await.ok()).await;
    assert!(
        Arc::ptr_eq(&key.counters, &account),
        "keys of one account share one counter"
    );

    database.revoke(&another.key).await;
    announce(key_changed).await;
    eventually("the revoked key is refused", async || authenticate().await.err()).await;
    gateway.account(&customer).await;
    gateway.stop().await;
    database.assert_settled(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unannounced_changes_are_found_by_the_refresh() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let settings = AccountSettings {
        refresh_interval: Duration::from_millis(100),
        ..AccountSettings::default()
    };
    let gateway = database
        .gateway_with(&database.url, QuotaSettings::default(), settings)
        .await;
    let account = gateway.account(&customer).await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();

    database.set_limit(&customer, calls, 2).await;
    let limited = eventually("the limit is known", async || {
        let admission = gateway.admit(&account, calls, 1).await.unwrap();
        (admission.quota.limit == 2).then_some(admission)
    })
    .await;
    limited.spent();
    assert!(gateway.admit(&account, calls, 1).await.is_err());

    database.set_status(&customer, "suspended").await;
    eventually("the account is suspended", async || {
        let refusal = gateway.admit(&account, calls, 1).await.unwrap_err();
        matches!(refusal, Refusal::Suspended).then_some(())
    })
    .await;
    database.revoke(&customer.key).await;
    eventually("the key is revoked", async || {
        let key = gateway
            .accounts
            .authenticate(customer.key.reveal(), clock::now_s())
            .await;
        (key.err() == Some(AuthError::Unknown)).then_some(())
    })
    .await;
    gateway.stop().await;
    database.assert_settled(2).await;
}

//! A change that a gateway heard of holds, also if it cannot read it from PostgreSQL.

use std::time::{Duration, Instant};

use gateway::{
    accounts::{AccountSettings, AuthError},
    quota::{QuotaSettings, Refusal},
};
use harness::{
    eventually,
    faults::proxy::{Proxy, Weather},
    wait::SOON,
};
use schema::{announcement::Announcement, api_key::ApiKey, clock};

use super::rig::{Customer, Database, Gateway};

/// A gateway whose connections to PostgreSQL pass a proxy.
struct Cut {
    database: Database,
    gateway: Gateway,
    proxy: Proxy,
    nats: async_nats::Client,
}

impl Cut {
    async fn start() -> Self {
        let database = Database::open().await;
        let (head, tail) = database.url.rsplit_once('@').unwrap_or(("", &database.url));
        let (server, name) = tail.split_once('/').unwrap();
        let proxy = Proxy::start(server.parse().unwrap()).await.unwrap();
        let url = format!("{head}@{}/{name}", proxy.address());
        let settings = AccountSettings {
            // Far less than the gateway waits for rows that it reads again.
            load_deadline: Duration::from_millis(500),
            ..AccountSettings::default()
        };
        Self {
            gateway: database.gateway_with(&url, QuotaSettings::default(), settings).await,
            nats: database.nats().await,
            database,
            proxy,
        }
    }

    async fn announce(&self, announcement: Announcement) {
        let payload = serde_json::to_vec(&announcement).unwrap();
        self.nats.publish(announcement.subject(), payload.into()).await.unwrap();
        self.nats.flush().await.unwrap();
    }

    async fn revoke(&self, customer: &Customer) {
        self.database.revoke(&customer.key).await;
        self.announce(Announcement::KeyChanged {
            key_id: customer.key.id(),
            account_id: customer.id,
        })
        .await;
    }

    async fn authenticate(&self, customer: &Customer) -> Result<(), AuthError> {
        let key = self
            .gateway
            .accounts
            .authenticate(customer.key.reveal(), clock::now_s());
        key.await.map(drop)
    }

    async fn until_cached(&self, customer: &Customer) {
        eventually("the key is read", async || self.authenticate(customer).await.ok()).await;
    }

    /// Waits until the customer's key is refused, and asserts that it stays refused.
    async fn until_unreadable(&self, customer: &Customer) {
        let began = Instant::now();
        while self.authenticate(customer).await.is_ok() {
            assert!(began.elapsed() < SOON, "the old key is still accepted");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..200 {
            assert_eq!(self.authenticate(customer).await, Err(AuthError::Unavailable));
        }
    }

    async fn until_clear(&self, customer: &Customer, expected: Result<(), AuthError>) {
        self.proxy.set(Weather::Clear);
        eventually("the change is read", async || {
            let found = self.authenticate(customer).await;
            (found != Err(AuthError::Unavailable)).then(|| assert_eq!(found, expected))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_from_the_announcement_on_even_if_it_cannot_be_read() {
    let cut = Cut::start().await;
    let customer = cut.database.customer().await;
    let other = Customer {
        id: customer.id,
        key: ApiKey::generate(),
    };
    cut.database.insert_key(&other).await;
    for customer in [&customer, &other] {
        cut.until_cached(customer).await;
    }
    cut.proxy.set(Weather::Cut);
    cut.revoke(&customer).await;
    cut.until_unreadable(&customer).await;
    cut.authenticate(&other).await.unwrap();
    cut.until_clear(&customer, Err(AuthError::Unknown)).await;
    cut.authenticate(&other).await.unwrap();
    cut.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_are_heard_while_postgres_answers_nothing() {
    let cut = Cut::start().await;
    let (first, second) = (cut.database.customer().await, cut.database.customer().await);
    for customer in [&first, &second] {
        cut.until_cached(customer).await;
    }
    cut.proxy.set(Weather::HalfOpen);
    // The gateway waits for its rows.
    cut.revoke(&first).await;
    eventually("the first key is in doubt", async || {
        cut.authenticate(&first).await.err()
    })
    .await;
    let revoked = Instant::now();
    cut.revoke(&second).await;
    eventually("the second key is in doubt", async || {
        cut.authenticate(&second).await.err()
    })
    .await;
    // The gateway still waits for the row of the first key.
    assert!(revoked.elapsed() < Duration::from_secs(5), "{:?}", revoked.elapsed());
    cut.until_unreadable(&second).await;
    cut.until_clear(&second, Err(AuthError::Unknown)).await;
    cut.until_clear(&first, Err(AuthError::Unknown)).await;
    cut.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_spends_no_units_at_hand_even_if_its_row_cannot_be_read() {
    let cut = Cut::start().await;
    let (customer, calls) = (cut.database.customer().await, cut.database.usage_type("api_call"));
    cut.until_cached(&customer).await;
    let account = cut.gateway.account(&customer).await;
    cut.gateway.admit(&account, calls, 1).await.unwrap().spent();
    cut.proxy.set(Weather::Cut);
    cut.database.set_status(&customer, "suspended").await;
    cut.announce(Announcement::AccountChanged {
        account_id: customer.id,
    })
    .await;
    cut.until_unreadable(&customer).await;
    cut.until_clear(&customer, Ok(())).await;
    assert_eq!(
        cut.gateway.admit(&account, calls, 1).await.unwrap_err(),
        Refusal::Suspended
    );
    cut.gateway.stop().await;
    cut.database.assert_settled(1).await;
}

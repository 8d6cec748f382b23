//! Measures one admission. Run it by hand, before and after a change of the fast path:
//!
//! ```text
//! cargo test --release -p gateway --lib --no-run
//! ADMISSIONS=2000000 target/release/deps/gateway-… --ignored --nocapture cost_tests            time
//! ADMISSIONS=… valgrind --tool=callgrind target/release/deps/gateway-… --ignored cost_tests    instructions
//! ```
//! Instructions for one admission: the difference of two runs, divided by the difference of their `ADMISSIONS`.

use std::{hint::black_box, sync::Arc, time::Instant};

use moka::future::Cache;
use prometheus_client::registry::Registry;
use protocol::grant::Pool;
use schema::{AccountId, Catalogue, KeyId, PoolType, Scopes, api_key::ApiKey};
use service::{Health, Lifecycle};
use sqlx::postgres::PgPoolOptions;

use super::{
    QuotaSettings, Quotas,
    leases::{Decision, Want, Work},
};
use crate::{
    accounts::{
        account::{Account, Facts},
        key::{Key, StoredKey},
    },
    clock::Clocks,
};

const NOW: i64 = 1_800_000_000;

/// One look-up of the key, then units of a lease at hand, then spent.
#[tokio::test]
#[ignore = "a measurement"]
async fn admission_from_a_lease_at_hand() {
    let admissions: i64 = std::env::var("ADMISSIONS").map_or(100_000, |text| text.parse().unwrap());
    let client = async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .connect("127.0.0.1:1")
        .await
        .unwrap();
    let life = Lifecycle::new();
    let quotas = Quotas::new(
        PgPoolOptions::new()
            .connect_lazy("postgres://127.0.0.1:1/none")
            .unwrap(),
        client.clone(),
        lane::link::Link::watch(&client, &life),
        &Clocks::new(Health::new(), &mut Registry::default()),
        QuotaSettings::default(),
        &mut Registry::default(),
        &life,
    );
    let catalogue = Arc::new(Catalogue::built_in());
    let facts = Facts {
        suspended: false,
        subscription: None,
        subscription_changed: None,
        owed_invoice_url: None,
        overrides: vec![Some(i64::MAX); catalogue.usage_types().len()].into(),
        spend_cap: None,
    };
    let account = quotas
        .counters()
        .share(Account::new(AccountId::new(), facts, &catalogue, NOW, 0));
    let usage_type = catalogue.usage_types()[0];
    let text = ApiKey::generate();
    let keys: Cache<KeyId, Arc<Key>> = Cache::builder().max_capacity(1_000).build();
    let key = Key {
        id: text.id(),
        account: Arc::clone(&account.account),
        counters: Arc::clone(&account),
        stored: StoredKey {
            hash: text.hash(),
            expires_at: None,
            revoked: false,
            scopes: Scopes::default(),
        },
        shared: Arc::default(),
    };
    keys.insert(text.id(), Arc::new(key)).await;

    // A lease with units for all.
    let counter = account.counter(PoolType::Limited(usage_type));
    let period = account.account.current_plan(NOW).period;
    let work = Work {
        give_backs: Vec::new(),
        want: Some(Want {
            lease_id: schema::LeaseId::new(),
            period,
            needed: 1,
            wanted: 1,
            epoch: 0,
            ask: None,
        }),
    };
    let granted = Decision::Granted {
        units: 1 << 40,
        pool: Pool {
            limit: i64::MAX,
            granted: 1 << 40,
        },
    };
    counter.publish(work, granted, true, Instant::now());

    let began = Instant::now();
    for _ in 0..admissions {
        let key = keys.get(&text.id()).await.unwrap();
        let admitted = quotas
            .admit(&key.counters, usage_type, black_box(1), black_box(NOW))
            .await;
        black_box(admitted.unwrap()).spent();
    }
    let took = began.elapsed();
    println!(
        "{admissions} admissions: {} ns each",
        took.as_nanos() / u128::from(admissions.max(1).unsigned_abs())
    );
}

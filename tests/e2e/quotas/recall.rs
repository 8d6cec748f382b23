//! No request is refused while a responding gateway holds unspent units, and remembered refusals cost nothing.

mod history;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use devstack::{DataDir, Nats, NatsOptions};
use gateway::{
    accounts::{AccountSettings, Accounts, refresh},
    clock::Clocks,
    quota::{AccountCounters, Admission, QuotaSettings, QuotaView, Quotas, Refusal},
};
use harness::{eventually, wait::SOON};
use lane::link::Link;
use prometheus_client::registry::Registry;
use schema::{UsageType, clock};
use service::{Health, Lifecycle};
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use history::{Call, History};

use super::rig::{Customer, Database, Gateway, stop_all};

async fn four_gateways(database: &Database) -> Vec<Arc<Gateway>> {
    let mut gateways = Vec::new();
    for _ in 0..4 {
        gateways.push(Arc::new(patient_gateway(database).await));
    }
    gateways
}

/// With these timeouts a slow machine is not mistaken for a silent gateway.
async fn patient_gateway(database: &Database) -> Gateway {
    let settings = QuotaSettings {
        recall_wait: Duration::from_millis(1_500),
        wait_max: Duration::from_secs(20),
        ..QuotaSettings::default()
    };
    database
        .gateway_with(&database.url, settings, AccountSettings::default())
        .await
}

/// Sixteen clients per gateway, each with its own cost. Each continues until it has been refused `refusals` times.
async fn exhaust(
    gateways: &[Arc<Gateway>],
    customer: &Customer,
    usage_type: UsageType,
    costs: &[i64],
    refusals: usize,
) -> History {
    let history = History::default();
    let mut clients = JoinSet::new();
    for gateway in gateways {
        let account = gateway.account(customer).await;
        for client in 0..16 {
            let (gateway, account, history) = (Arc::clone(gateway), Arc::clone(&account), history.clone());
            let cost = costs[client % costs.len()];
            clients.spawn(async move {
                let mut refused = 0;
                while refused < refusals {
                    let invoked = Instant::now();
                    let decided = gateway.admit(&account, usage_type, cost).await;
                    let answered = Instant::now();
                    let admitted = match decided {
                        Ok(admission) => {
                            // Let other tasks run between the decision and its outcome, as publishing does.
                            tokio::task::yield_now().await;
                            admission.spent();
                            true
                        }
                        Err(Refusal::LimitReached(_)) => false,
                        Err(refusal) => panic!("{refusal:?}"),
                    };
                    refused += usize::from(!admitted);
                    let call = Call {
                        cost,
                        invoked,
                        answered,
                        admitted,
                    };
                    history.0.lock().unwrap().push(call);
                }
            });
        }
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    history
}

fn refusals(gateways: &[Arc<Gateway>], source: &str) -> u64 {
    let metric = format!("refusals_total{{source=\"{source}\"}}");
    gateways.iter().map(|gateway| gateway.metric(&metric)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_gateways_refuse_only_when_nothing_is_unspent_and_remember_it() {
    const LIMIT: i64 = 2_000;
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    database.set_limit(&customer, calls, LIMIT).await;
    let gateways = four_gateways(&database).await;

    let history = exhaust(&gateways, &customer, calls, &[1], 50).await;

    assert_eq!(history.admitted_units(), LIMIT);
    history.assert_honest(LIMIT);
    let [remembered, waited, asked] = ["remembered", "waited", "asked"].map(|source| refusals(&gateways, source));
    assert_eq!(remembered + waited + asked, 64 * 50);
    assert!(
        remembered * 100 >= 64 * 50 * 95,
        "{remembered} remembered, {waited} waited, {asked} asked"
    );
    stop_all(gateways).await;
    database.assert_settled(LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_of_1_7_and_50_are_refused_only_when_fewer_units_remain_anywhere() {
    const LIMIT: i64 = 5_003;
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    database.set_limit(&customer, calls, LIMIT).await;
    let gateways = four_gateways(&database).await;

    let history = exhaust(&gateways, &customer, calls, &[1, 50, 7, 7, 50], 3).await;

    assert_eq!(history.admitted_units(), LIMIT);
    history.assert_honest(LIMIT);
    stop_all(gateways).await;
    database.assert_settled(LIMIT).await;
}

/// Admits requests until one is refused.
async fn take_all(
    gateway: &Gateway,
    account: &Arc<AccountCounters>,
    usage_type: UsageType,
) -> (Vec<Admission>, QuotaView) {
    let mut held = Vec::new();
    loop {
        match gateway.admit(account, usage_type, 1).await {
            Ok(admission) => held.push(admission),
            Err(Refusal::LimitReached(view)) => return (held, view),
            Err(refusal) => panic!("{refusal:?}"),
        }
    }
}

async fn is_refused(gateway: &Gateway, account: &Arc<AccountCounters>, usage_type: UsageType) -> QuotaView {
    match gateway.admit(account, usage_type, 1).await {
        Err(Refusal::LimitReached(view)) => view,
        other => panic!("not refused: {other:?}"),
    }
}

/// Waits until one more unit is admitted, and asserts that this takes less than [`SOON`].
async fn is_admitted_soon(gateway: &Gateway, account: &Arc<AccountCounters>, usage_type: UsageType) {
    let since = Instant::now();
    eventually("one more unit is admitted", async || {
        gateway.admit(account, usage_type, 1).await.ok()
    })
    .await
    .spent();
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_failed_request_are_available_at_other_gateways_at_once() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    database.set_limit(&customer, calls, 40).await;
    let (first, second) = (patient_gateway(&database).await, patient_gateway(&database).await);
    let (here, there) = (first.account(&customer).await, second.account(&customer).await);
    // The first gateway takes all leases, open and closed ones. Then all units are reserved.
    let (mut held, view) = take_all(&first, &here, calls).await;
    assert_eq!(
        (held.len(), view.current_usage, view.limit, view.remaining),
        (40, 40, 40, 0)
    );
    for _ in 0..3 {
        let view = is_refused(&second, &there, calls).await;
        assert_eq!((view.current_usage, view.remaining), (40, 0));
    }
    assert_eq!(second.metric("refusals_total{source=\"remembered\"}"), 2);
    assert_eq!(second.metric("recalls_total{outcome=\"complete\"}"), 1);
    // Return units of different leases. They become available whether or not the lease is open.
    for at in [0, 20, 37] {
        drop(held.remove(at));
        is_admitted_soon(&second, &there, calls).await;
        is_refused(&second, &there, calls).await;
        is_refused(&first, &here, calls).await;
    }
    held.into_iter().for_each(Admission::spent);
    first.stop().await;
    second.stop().await;
    database.assert_settled(40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_stays_exact_while_many_requests_fail() {
    const LIMIT: i64 = 500;
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    database.set_limit(&customer, calls, LIMIT).await;
    let gateways = four_gateways(&database).await;
    let spent = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let mut clients = JoinSet::new();
    for gateway in &gateways {
        let account = gateway.account(&customer).await;
        for _ in 0..16 {
            let (gateway, account, spent) = (Arc::clone(gateway), Arc::clone(&account), Arc::clone(&spent));
            clients.spawn(async move {
                for n in 0..200 {
                    let Ok(admission) = gateway.admit(&account, calls, 1 + n % 3).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    tokio::task::yield_now().await;
                    if n % 2 == 0 {
                        spent.fetch_add(admission.cost_units, std::sync::atomic::Ordering::SeqCst);
                        admission.spent();
                    }
                }
            });
        }
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    // Nothing is reserved any more, so every unspent unit can be spent at any gateway.
    let mut spent = spent.load(std::sync::atomic::Ordering::SeqCst);
    let account = gateways[3].account(&customer).await;
    while spent < LIMIT {
        is_admitted_soon(&gateways[3], &account, calls).await;
        spent += 1;
    }
    for gateway in &gateways {
        let account = gateway.account(&customer).await;
        is_refused(gateway, &account, calls).await;
    }
    drop(account);
    stop_all(gateways).await;
    database.assert_settled(LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_only_once_for_a_gateway_that_does_not_answer() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let (gateway, deaf) = (database.gateway().await, deaf_gateway(&database).await);
    let account = gateway.account(&customer).await;
    // It initially holds 16 of the 100 units.
    let theirs = deaf.accounts.authenticate(customer.key.reveal(), clock::now_s()).await;
    let theirs = Arc::clone(&theirs.unwrap().counters);
    deaf.quotas
        .admit(&theirs, calls, 1, clock::now_s())
        .await
        .unwrap()
        .spent();
    let mut spent = 0;
    while let Ok(admission) = gateway.admit(&account, calls, 1).await {
        admission.spent();
        spent += 1;
    }
    assert_eq!(spent, 84);
    assert_eq!(
        gateway.metric("recalls_timed_out_total"),
        1,
        "the gateway waited for it once"
    );
    assert_eq!(gateway.metric("recalls_total{outcome=\"incomplete\"}"), 1);
    // Its units may become available at any time, so it is asked every second, but not waited for.
    eventually("it is asked three times", async || {
        is_refused(&gateway, &account, calls).await;
        (gateway.metric("recalls_total{outcome=\"incomplete\"}") == 3).then_some(())
    })
    .await;
    assert_eq!(
        gateway.metric("recalls_timed_out_total"),
        1,
        "later requests do not wait for it"
    );
    // It stops, and its units are available again.
    deaf.quotas.return_all().await;
    eventually("its units are available", async || {
        gateway.admit(&account, calls, 1).await.ok()
    })
    .await
    .spent();
    deaf.life.stop();
    gateway.stop().await;
    database.assert_settled(86).await;
}

struct Deaf {
    accounts: Accounts,
    quotas: Quotas,
    life: Lifecycle,
}

/// A gateway that takes leases but does not answer recalls, like one that is paused or disconnected.
async fn deaf_gateway(database: &Database) -> Deaf {
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .connect_lazy(&database.url)
        .unwrap();
    let (life, mut metrics, client) = (Lifecycle::new(), Registry::default(), database.nats().await);
    let link = Link::watch(&client, &life);
    let clocks = Clocks::new(Health::new(), &mut metrics);
    let quotas = Quotas::new(
        pool.clone(),
        client,
        link,
        &clocks,
        QuotaSettings::default(),
        &mut metrics,
        &life,
    );
    let catalogue = Arc::clone(&database.catalogue);
    let accounts = Accounts::new(pool, catalogue, AccountSettings::default(), &quotas, &mut metrics);
    refresh::follow(accounts.clone(), &life);
    quotas.start_run(database.register_run().await);
    Deaf { accounts, quotas, life }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_limits_stay_exact_and_refusals_fast_and_held_units_are_recalled_later() {
    let mut database = Database::open().await;
    let data = DataDir::create().unwrap();
    let mut nats = Nats::start(&data.path().join("nats"), &NatsOptions::default())
        .await
        .unwrap();
    database.nats_url = nats.url().to_owned();
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let (first, second) = (database.gateway().await, database.gateway().await);
    let (here, there) = (first.account(&customer).await, second.account(&customer).await);
    // The first gateway holds 16 of the 100 units.
    first.admit(&here, calls, 1).await.unwrap().spent();
    nats.stop().await.unwrap();
    let mut spent = 1;
    let longest = |began: Instant| assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    loop {
        let began = Instant::now();
        match second.admit(&there, calls, 1).await {
            Ok(admission) => admission.spent(),
            Err(Refusal::LimitReached(view)) => {
                longest(began);
                assert_eq!(
                    (view.current_usage, view.remaining),
                    (100, 0),
                    "units that others hold count as used"
                );
                break;
            }
            Err(refusal) => panic!("{refusal:?}"),
        }
        longest(began);
        spent += 1;
    }
    assert_eq!(spent, 85, "15 units are not available");
    nats.restart().await.unwrap();
    let reconnected = Instant::now();
    for _ in 0..15 {
        eventually("the units of the other gateway are recalled", async || {
            second.admit(&there, calls, 1).await.ok()
        })
        .await
        .spent();
    }
    assert!(reconnected.elapsed() < SOON, "{:?}", reconnected.elapsed());
    is_refused(&second, &there, calls).await;
    is_refused(&first, &here, calls).await;
    first.stop().await;
    second.stop().await;
    database.assert_settled(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_limit_discards_remembered_refusals() {
    let database = Database::open().await;
    let (customer, exports) = (database.customer().await, database.usage_type("export"));
    let (first, second) = (patient_gateway(&database).await, patient_gateway(&database).await);
    let (here, there) = (first.account(&customer).await, second.account(&customer).await);
    let (held, _) = take_all(&first, &here, exports).await;
    held.into_iter().for_each(Admission::spent);
    is_refused(&second, &there, exports).await;
    // A limit that changes with the catalogue: the account itself is unchanged.
    sqlx::query("update quota_pool set limit_units = 6 where usage_type = 'export'")
        .execute(&database.pool)
        .await
        .unwrap();
    let view = is_refused(&second, &there, exports).await;
    assert_eq!((view.limit, view.current_usage), (5, 5), "the refusal is remembered");
    second.notify(&customer).await;
    second.admit(&there, exports, 1).await.unwrap().spent();
    is_refused(&second, &there, exports).await;
    first.stop().await;
    second.stop().await;
    database.assert_settled(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn above_ten_requests_a_second_at_least_99_of_100_are_admitted_from_held_units() {
    let database = Database::open().await;
    let (calls, gateways) = (
        database.usage_type("api_call"),
        [Arc::new(database.gateway().await), Arc::new(database.gateway().await)],
    );
    let mut clients = JoinSet::new();
    for (requests_per_second, requests) in [(12, 120), (50, 500), (400, 4_000)] {
        let customer = database.customer().await;
        database.set_limit(&customer, calls, 1_000_000).await;
        let gateway = Arc::clone(&gateways[usize::from(requests_per_second == 50)]);
        let account = gateway.account(&customer).await;
        clients.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / requests_per_second);
            for _ in 0..requests {
                ticks.tick().await;
                gateway.admit(&account, calls, 1).await.unwrap().spent();
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let (mut local, mut asked) = (0, 0);
    for gateway in gateways.iter() {
        local += gateway.metric("admitted_total{source=\"local\"}");
        asked += gateway.metric("admitted_total{source=\"postgres\"}");
    }
    assert_eq!(local + asked, 4_620);
    assert!(
        asked * 100 <= local + asked,
        "{asked} of {} asked Postgres",
        local + asked
    );
    stop_all(gateways.into()).await;
    database.assert_settled(4_620).await;
}

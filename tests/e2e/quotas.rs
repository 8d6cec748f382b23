//! G3 at the gateway's decisions: limits are hard and honest with several gateways on one pool, through lost connections,
//! lost answers, new periods and changed limits; and in the end Postgres has back all that was not spent.

mod recall;
mod rig;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use gateway::{
    accounts::{AccountSettings, AuthError},
    admission::{Admission, Refusal},
    quotas::QuotaSettings,
};
use harness::eventually;
use schema::{Period, announcement::Announcement, api_key::ApiKey, clock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinSet,
};

use self::rig::{Customer, Database, drain, stop_all};

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_with_64_clients_each_admit_the_limit_to_the_unit() {
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
async fn one_gateway_refuses_only_what_its_pieces_and_the_pool_do_not_cover_together() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    // Free: 100 calls. Two leases of odd sizes, and a rest in the pool.
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
async fn connections_that_are_killed_all_the_time_neither_lose_nor_double_a_unit() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    database.set_limit(&customer, calls, 5_000).await;
    let gateways = vec![Arc::new(database.gateway().await), Arc::new(database.gateway().await)];
    for gateway in &gateways {
        // The killing is about leases: a cold key would be answered 503.
        gateway.account(&customer).await;
    }
    let kills = AtomicUsize::new(0);
    let killing = async {
        loop {
            let killed: i64 = sqlx::query_scalar(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'",
            )
            .fetch_one(&database.pool)
            .await
            .unwrap_or(0);
            kills.fetch_add(killed as usize, SeqCst);
            // Long enough for some transactions to end, short enough to meet others at any of their statements.
            tokio::time::sleep(Duration::from_millis(rand::random_range(1..40))).await;
        }
    };
    let spent = tokio::select! {
        spent = drain(&gateways, &customer, calls, &[1, 1, 2, 5, 1, 13, 1, 1]) => spent,
        () = killing => unreachable!("it goes on until the others have ended"),
    };

    assert_eq!(spent, 5_000);
    assert!(kills.load(SeqCst) > 3, "only {kills:?} transactions were met");
    stop_all(gateways).await;
    database.assert_settled(5_000).await;
}

/// Where the connection is cut at a transaction's commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Before,
    After,
}

/// A connection to PostgreSQL that can be cut.
struct Proxy {
    url: String,
    cuts: Arc<AtomicUsize>,
    up: watch::Sender<bool>,
}

impl Proxy {
    /// Cuts the next `cuts` commits.
    async fn start(url: &str, cut: Cut, cuts: usize) -> Self {
        let (head, tail) = url.rsplit_once('@').map_or(("", url), |(head, tail)| (head, tail));
        let (server, name) = tail.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self {
            url: format!("{head}@127.0.0.1:{port}/{name}"),
            cuts: Arc::new(AtomicUsize::new(cuts)),
            up: watch::Sender::new(true),
        };
        let (server, cuts, up) = (server.to_owned(), Arc::clone(&proxy.cuts), proxy.up.subscribe());
        let mut connections = JoinSet::new();
        #[allow(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, cuts, mut up) = (server.clone(), Arc::clone(&cuts), up.clone());
                connections.spawn(async move {
                    if !*up.borrow() {
                        return;
                    }
                    let server = TcpStream::connect(server).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = forward(from_client, to_server, cut, &cuts) => {}
                        () = copy(from_server, to_client) => {}
                        _ = up.wait_for(|up| !up) => {}
                    }
                });
            }
        });
        proxy
    }
}

/// Until a commit that is to be cut comes by.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Cut, cuts: &AtomicUsize) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let is_commit = buffer[..length].windows(6).any(|text| text == b"COMMIT");
        let cut = (is_commit && cuts.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()).then_some(cut);
        if cut == Some(Cut::Before) || to.write_all(&buffer[..length]).await.is_err() || cut == Some(Cut::After) {
            return;
        }
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    // Whichever side ends it, the connection is over.
    drop(tokio::io::copy(&mut from, &mut to).await);
}

async fn commits_that_are_cut_grant_once(cut: Cut) {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let proxy = Proxy::start(&database.url, cut, 0).await;
    let gateway = database.gateway_at(&proxy.url).await;
    let account = gateway.account(&customer).await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();

    // More than a batch tries again, so the question is given up with an outcome that nobody knows.
    proxy.cuts.store(1_000, SeqCst);
    assert_eq!(
        gateway.admit(&account, calls, 50).await.unwrap_err(),
        Refusal::Unavailable
    );
    proxy.cuts.store(0, SeqCst);
    eventually("Postgres is found again", async || {
        gateway.admit(&account, calls, 50).await.ok()
    })
    .await
    .spent();
    // One cut: tried again at once, and granted once.
    proxy.cuts.store(1, SeqCst);
    gateway.admit(&account, calls, 16).await.unwrap().spent();
    assert_eq!(proxy.cuts.load(SeqCst), 0);
    gateway.admit(&account, calls, 33).await.unwrap().spent();
    assert!(matches!(
        gateway.admit(&account, calls, 1).await,
        Err(Refusal::LimitReached(_))
    ));
    gateway.stop().await;
    database.assert_settled(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_grants_once() {
    commits_that_are_cut_grant_once(Cut::After).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrives_grants_once() {
    commits_that_are_cut_grant_once(Cut::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_what_is_held_is_spent_and_then_refused_at_once() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let proxy = Proxy::start(&database.url, Cut::Before, 0).await;
    let gateway = database.gateway_at(&proxy.url).await;
    let account = gateway.account(&customer).await;
    let held = gateway.admit(&account, calls, 1).await.unwrap().quota;
    proxy.up.send_replace(false);

    // The first lease is for 16 requests; a renewal may have come before Postgres went.
    let mut admitted = 1;
    while let Ok(admission) = gateway.admit(&account, calls, 1).await {
        admission.spent();
        admitted += 1;
    }
    assert!((16..100).contains(&admitted), "{admitted} admitted; at first {held:?}");
    let asked = Instant::now();
    for _ in 0..100 {
        assert_eq!(
            gateway.admit(&account, calls, 1).await.unwrap_err(),
            Refusal::Unavailable
        );
    }
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    // The key goes on working, and one that is not cached cannot be checked.
    gateway.account(&customer).await;
    let other = ApiKey::generate();
    let cold = gateway.accounts.authenticate(other.reveal(), clock::now_s()).await;
    assert_eq!(cold.err(), Some(AuthError::Unavailable));

    proxy.up.send_replace(true);
    eventually("it is admitted again", async || {
        gateway.admit(&account, calls, 1).await.ok()
    })
    .await
    .spent();
    // The very first was put back when its admission was dropped.
    gateway.stop().await;
    database.assert_settled(admitted).await;
}

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
            assert_eq!(admission.period, period, "request {n} of month {month}");
            admission.spent();
        }
        assert!(gateway.quotas.admit(&account, exports, 1, now).await.is_err());
        now = period.end;
    }
    gateway.stop().await;
    database.assert_settled(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_holds_from_its_announcement_on() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    for _ in 0..10 {
        gateway.admit(&account, calls, 1).await.unwrap().spent();
    }
    let in_flight = gateway.admit(&account, calls, 3).await.unwrap();

    database.set_limit(&customer, calls, 14).await;
    gateway.accounts.refresh(&[], &[customer.id]).await;
    let admission = gateway.admit(&account, calls, 1).await.unwrap();
    assert_eq!(admission.quota.limit, 14);
    admission.spent();
    assert!(gateway.admit(&account, calls, 1).await.is_err());
    // A request that was under way fails: its units are there again, but no more than the new limit.
    drop(in_flight);
    gateway.admit(&account, calls, 3).await.unwrap().spent();
    assert!(gateway.admit(&account, calls, 1).await.is_err());

    database.set_limit(&customer, calls, 5).await;
    gateway.accounts.refresh(&[], &[customer.id]).await;
    assert!(gateway.admit(&account, calls, 1).await.is_err(), "14 are spent of 5");
    database.set_limit(&customer, calls, 15).await;
    gateway.accounts.refresh(&[], &[customer.id]).await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    assert!(gateway.admit(&account, calls, 1).await.is_err());
    gateway.stop().await;
    database.assert_settled(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_changed_unannounced_opens_no_pool_with_the_old_limit() {
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
    // 503 until the account was read again: at once, not at the next refresh.
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
async fn a_fenced_run_gets_no_lease_and_the_next_one_does() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let gateway = database.gateway().await;
    let account = gateway.account(&customer).await;
    let mut lost = gateway.quotas.run_lost();
    gateway.admit(&account, calls, 1).await.unwrap().spent();
    let (granted, _) = database.pools().await;

    database.set_run_state(gateway.run, "fencing").await;
    // What is held is spent on; then nothing more comes.
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
        "the fenced run's are left to settling"
    );
    assert!(live.iter().all(|(run, _)| *run != next.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spooling_run_gets_leases_as_a_live_one() {
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
async fn return_all_waits_for_requests_under_way() {
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
        eventually("all but what is reserved is given back", async || {
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
            Err(Refusal::PaymentRequired { plan }) => (!admitted && plan == "free").then_some(()),
            Err(refusal) => panic!("{refusal:?}"),
        })
        .await;
        assert!(
            announced.elapsed() < Duration::from_secs(1),
            "{status}: {:?}",
            announced.elapsed()
        );
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
        "it is remembered that it is unknown"
    );
    announce(key_changed.clone()).await;
    let key = eventually("the new key works", async || authenticate().await.ok()).await;
    assert!(
        Arc::ptr_eq(&key.account, &account),
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
async fn changes_that_nobody_announced_are_found_by_the_refresh() {
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
        matches!(refusal, Refusal::PaymentRequired { .. }).then_some(())
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

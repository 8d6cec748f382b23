//! Lost connections to PostgreSQL: units are granted once, whatever was sent on the connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use gateway::{accounts::AuthError, quota::Refusal};
use harness::eventually;
use schema::{api_key::ApiKey, clock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinSet,
};

use super::rig::{Database, drain, stop_all};

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_neither_lose_nor_double_a_unit() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    database.set_limit(&customer, calls, 5_000).await;
    let gateways = vec![Arc::new(database.gateway().await), Arc::new(database.gateway().await)];
    for gateway in &gateways {
        // This test is about leases: a key that is not cached would be answered 503.
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
            // Long enough for some transactions to finish, short enough to hit others at any statement.
            tokio::time::sleep(Duration::from_millis(rand::random_range(1..40))).await;
        }
    };
    let spent = tokio::select! {
        spent = drain(&gateways, &customer, calls, &[1, 1, 2, 5, 1, 13, 1, 1]) => spent,
        () = killing => unreachable!("the killing ends only with the clients"),
    };

    assert_eq!(spent, 5_000);
    assert!(kills.load(SeqCst) > 3, "only {kills:?} transactions were killed");
    stop_all(gateways).await;
    database.assert_settled(5_000).await;
}

/// Whether the connection is cut before or after a commit reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Before,
    After,
}

/// A proxy for connections to PostgreSQL that can cut them.
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
        #[expect(clippy::disallowed_methods, reason = "the task ends with the test's runtime")]
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

/// Forwards bytes until a commit is cut.
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
    // When either side closes, the connection ends.
    drop(tokio::io::copy(&mut from, &mut to).await);
}

async fn commits_that_are_cut_grant_once(cut: Cut) {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let proxy = Proxy::start(&database.url, cut, 0).await;
    let gateway = database.gateway_at(&proxy.url).await;
    let account = gateway.account(&customer).await;
    gateway.admit(&account, calls, 1).await.unwrap().spent();

    // More cuts than a batch has retries, so the request is given up with an unknown outcome.
    proxy.cuts.store(1_000, SeqCst);
    assert_eq!(
        gateway.admit(&account, calls, 50).await.unwrap_err(),
        Refusal::Unavailable
    );
    proxy.cuts.store(0, SeqCst);
    eventually("the gateway reconnects to Postgres", async || {
        gateway.admit(&account, calls, 50).await.ok()
    })
    .await
    .spent();
    // One cut: the transaction is retried at once and grants once.
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
async fn a_commit_with_a_lost_response_grants_once() {
    commits_that_are_cut_grant_once(Cut::After).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrives_grants_once() {
    commits_that_are_cut_grant_once(Cut::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_held_units_are_spent_and_then_requests_are_refused_at_once() {
    let database = Database::open().await;
    let (customer, calls) = (database.customer().await, database.usage_type("api_call"));
    let proxy = Proxy::start(&database.url, Cut::Before, 0).await;
    let gateway = database.gateway_at(&proxy.url).await;
    let account = gateway.account(&customer).await;
    let held = gateway.admit(&account, calls, 1).await.unwrap().quota;
    proxy.up.send_replace(false);

    // The first lease has 16 units. A renewal may have been granted before Postgres disappeared.
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
    // Each request would take two seconds if it waited for PostgreSQL.
    assert!(asked.elapsed() < Duration::from_secs(100), "{:?}", asked.elapsed());
    // A cached key still works. A key that is not cached cannot be checked.
    gateway.account(&customer).await;
    let other = ApiKey::generate();
    let cold = gateway.accounts.authenticate(other.reveal(), clock::now_s()).await;
    assert_eq!(cold.err(), Some(AuthError::Unavailable));

    proxy.up.send_replace(true);
    eventually("requests are admitted again", async || {
        gateway.admit(&account, calls, 1).await.ok()
    })
    .await
    .spent();
    // The unit of the first request was returned when its admission was dropped.
    gateway.stop().await;
    database.assert_settled(admitted).await;
}

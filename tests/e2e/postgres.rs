//! Connections to PostgreSQL: a caller that gives up leaves nothing behind for the next one.

use std::time::Duration;

use devstack::Servers;
use futures_util::poll;
use harness::{
    eventually,
    faults::proxy::{Proxy, Weather},
};
use service::postgres::pool_options;
use sqlx::{PgPool, postgres::PgPoolOptions};

/// Connections of this database that are inside a transaction and wait for their caller.
async fn open_transactions(watcher: &PgPool) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'",
    )
    .fetch_one(watcher)
    .await
    .unwrap()
}

/// Drops a caller after PostgreSQL has begun its transaction and before the response has arrived.
/// Returns the open transactions that remain when the next caller has the connection.
async fn left_by_a_dropped_begin(options: PgPoolOptions, url: &str, watcher: &PgPool) -> i64 {
    /// Far longer than the pause between two looks at the server, on a busy machine too.
    const DELAY: Duration = Duration::from_secs(4);
    let (server, name) = url.rsplit_once('@').unwrap().1.split_once('/').unwrap();
    let proxy = Proxy::start(server.parse().unwrap()).await.unwrap();
    let url = format!("postgres://postgres@{}/{name}", proxy.address());
    let options = options.max_connections(1).test_before_acquire(false);
    let pool: PgPool = options.connect(&url).await.unwrap();
    proxy.set(Weather::Slow(DELAY));
    let mut begin = Box::pin(pool.begin());
    eventually("PostgreSQL has begun the transaction", async || {
        if open_transactions(watcher).await > 0 {
            return Some(());
        }
        assert!(poll!(&mut begin).is_pending(), "the response has arrived");
        None
    })
    .await;
    drop(begin);
    proxy.set(Weather::Clear);
    let _next = pool.acquire().await.unwrap();
    open_transactions(watcher).await
}

#[tokio::test]
async fn a_caller_that_is_dropped_in_a_begin_leaves_no_open_transaction() {
    let servers = Servers::shared().await.unwrap();
    let name = format!("begin_{:016x}", rand::random::<u64>());
    let url = servers.postgres.create_database(&name).await.unwrap();
    let watcher = PgPool::connect(&url).await.unwrap();
    let plain = left_by_a_dropped_begin(PgPoolOptions::new(), &url, &watcher).await;
    assert_eq!(
        plain, 1,
        "sqlx ends the transaction itself: `pool_options` is no longer needed"
    );
    eventually("its pool is gone", async || {
        (open_transactions(&watcher).await == 0).then_some(())
    })
    .await;
    assert_eq!(left_by_a_dropped_begin(pool_options(), &url, &watcher).await, 0);
}

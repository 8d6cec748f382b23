//! Connections to PostgreSQL: a caller that gives up leaves nothing behind for the next one.

use std::time::Duration;

use devstack::Servers;
use futures_util::poll;
use harness::{
    eventually,
    faults::proxy::{Proxy, Weather},
};
use service::postgres::pool_options;
use sqlx::PgPool;

/// Connections of this database that are inside a transaction and wait for their caller.
async fn open_transactions(watcher: &PgPool) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'",
    )
    .fetch_one(watcher)
    .await
    .unwrap()
}

/// With a plain pool of sqlx, the next caller gets a connection inside the transaction, which stays open.
#[tokio::test]
async fn a_caller_that_is_dropped_in_a_begin_leaves_no_open_transaction() {
    /// Far longer than the pause between two looks at the server.
    const DELAY: Duration = Duration::from_secs(2);
    let servers = Servers::shared().await.unwrap();
    let name = format!("begin_{:016x}", rand::random::<u64>());
    let url = servers.postgres.create_database(&name).await.unwrap();
    let watcher = PgPool::connect(&url).await.unwrap();
    let (server, name) = url.rsplit_once('@').unwrap().1.split_once('/').unwrap();
    let proxy = Proxy::start(server.parse().unwrap()).await.unwrap();
    let url = format!("postgres://postgres@{}/{name}", proxy.address());
    let pool: PgPool = pool_options().max_connections(1).connect(&url).await.unwrap();
    proxy.set(Weather::Slow(DELAY));
    let mut begin = Box::pin(pool.begin());
    eventually("PostgreSQL has begun the transaction", async || {
        if open_transactions(&watcher).await > 0 {
            return Some(());
        }
        assert!(poll!(&mut begin).is_pending(), "the response has arrived");
        None
    })
    .await;
    drop(begin);
    proxy.set(Weather::Clear);
    let _next = pool.acquire().await.unwrap();
    eventually("the transaction has ended", async || {
        (open_transactions(&watcher).await == 0).then_some(())
    })
    .await;
}

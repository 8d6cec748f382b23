//! The billing worker is killed many times while it settles, and several workers settle at the same time.

use std::{collections::HashMap, time::Duration};

use devstack::{ServiceOptions, ports};
use harness::{Stack, eventually};
use schema::{AccountId, LeaseId, RunId};
use uuid::Uuid;

use super::rig::{Left, dead_run, options, runs};
use crate::SERVICES;

const ACCOUNTS: usize = 40;

/// This many leases over all accounts. Some spent nothing, some all their units.
fn leases(accounts: &[AccountId], count: usize) -> Vec<Left> {
    let lease = |n: usize| {
        let units = 1 + (n % 17) as i64;
        Left {
            lease: LeaseId::new(),
            account: accounts[n % accounts.len()],
            units,
            spent: [0, units / 2, units][n % 3],
        }
    };
    (0..count).map(lease).collect()
}

/// Asserts that every lease is settled once, and that the granted units of each pool are exactly its spent units.
async fn assert_settled_once(stack: &Stack, left: &[Left]) {
    let rows: Vec<(Uuid, String, i64, i64)> =
        sqlx::query_as("select id, state, units, returned_units from quota_leases")
            .fetch_all(&stack.pool)
            .await
            .unwrap();
    let rows: HashMap<_, _> = rows.into_iter().map(|row| (row.0, (row.1, row.2 - row.3))).collect();
    for left in left {
        assert_eq!(rows[&left.lease.0], ("settled".to_owned(), left.spent), "{left:?}");
    }
    let mut spent: HashMap<Uuid, i64> = HashMap::new();
    for left in left {
        *spent.entry(left.account.0).or_default() += left.spent;
    }
    let granted: Vec<(Uuid, i64)> =
        sqlx::query_as("select account_id, granted_units from quota_pool where usage_type = 'export'")
            .fetch_all(&stack.pool)
            .await
            .unwrap();
    assert_eq!(granted.into_iter().collect::<HashMap<_, _>>(), spent);
}

async fn end(stack: &Stack, runs: &[RunId]) {
    let ids: Vec<Uuid> = runs.iter().map(|run| run.0).collect();
    sqlx::query("update gateway_runs set state = 'fencing' where id = any($1)")
        .bind(ids)
        .execute(&stack.pool)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_twenty_times_settles_each_lease_once() {
    const KILLS: usize = 20;
    let mut stack = Stack::start(SERVICES, options(1)).await.unwrap();
    stack.billing.kill().await.unwrap();
    let accounts: Vec<_> = (0..ACCOUNTS).map(|_| AccountId::new()).collect();
    // More runs than kills, so that each worker finds a run to settle.
    let (mut left, mut dead) = (Vec::new(), Vec::new());
    for _ in 0..KILLS / 2 {
        let leases = leases(&accounts, 700);
        dead.push(dead_run(&stack, leases.clone()));
        left.extend(leases);
    }
    let pool = stack.pool.clone();
    let settled = async || {
        let count = "select count(*) from quota_leases where state = 'settled'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap()
    };
    let program = stack.billing.process().program().clone();
    let mut progress = Vec::new();
    for kill in 0..KILLS {
        if kill % 2 == 0 {
            end(&stack, &dead[kill / 2..=kill / 2]).await;
        }
        let before = settled().await;
        let mut worker = program.start().unwrap();
        // It has started a page, or none if the last worker was killed late. Then any moment is fine.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        let everything = runs(&stack.pool, "fencing").await.is_empty();
        while !everything && settled().await == before && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..60))).await;
        worker.kill().await.unwrap();
        progress.push(settled().await);
    }
    println!("leases settled after each kill: {progress:?}");
    end(&stack, &dead).await;
    stack.billing.restart().await.unwrap();
    eventually("every run is settled", async || {
        let settled = runs(&stack.pool, "settled").await;
        dead.iter().all(|run| settled.contains(&run.0)).then_some(())
    })
    .await;
    assert_settled_once(&stack, &left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_settle_each_lease_once() {
    let stack = Stack::start(SERVICES, options(1)).await.unwrap();
    let accounts: Vec<_> = (0..ACCOUNTS).map(|_| AccountId::new()).collect();
    let mut others = Vec::new();
    for n in 2..=3 {
        let (admin, public) = (ports::free().unwrap(), ports::free().unwrap());
        let mut options = ServiceOptions::new(
            "billing-worker",
            &format!("billing-worker-{n}"),
            stack.data.path().to_owned(),
            admin,
        )
        .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
        .env("BILLING_LISTEN", format!("127.0.0.1:{public}"))
        .env("RUN_DEAD_AFTER", "3")
        .env("HEARTBEAT_INTERVAL_MAX", "0.3")
        .env("NATS_URL", &stack.endpoints.nats_url)
        .env("DATABASE_URL", &stack.endpoints.database_url)
        .env("CLICKHOUSE_URL", &stack.endpoints.clickhouse_url)
        .env("CLICKHOUSE_DATABASE", &stack.endpoints.clickhouse_database);
        options.exe = Some(SERVICES.into());
        others.push(devstack::Service::start(options).await.unwrap());
    }
    let (mut left, mut dead) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let leases = leases(&accounts, 1_200);
        // The workers find out on their own that the run is dead.
        dead.push(dead_run(&stack, leases.clone()));
        left.extend(leases);
    }
    eventually("every run is settled", async || {
        let settled = runs(&stack.pool, "settled").await;
        dead.iter().all(|run| settled.contains(&run.0)).then_some(())
    })
    .await;
    assert_settled_once(&stack, &left).await;
    assert_eq!(runs(&stack.pool, "live").await.len(), 1, "the gateway is still alive");
}

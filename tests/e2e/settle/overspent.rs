//! Counting: each position counts once, stored or dropped. A lease that spent more units than it had is reported.

use harness::{Stack, eventually};
use schema::{AccountId, LeaseId};
use uuid::Uuid;

use super::rig::{Left, dead_run, options, runs, until_settled};
use crate::SERVICES;

fn left(account: AccountId, units: i64, spent: i64) -> Left {
    Left {
        lease: LeaseId::new(),
        account,
        units,
        spent,
    }
}

async fn lease(stack: &Stack, left: &Left) -> (String, i64) {
    sqlx::query_as("select state, returned_units from quota_leases where id = $1")
        .bind(left.lease.0)
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

async fn end(stack: &Stack, run: Uuid) {
    sqlx::query("update gateway_runs set state = 'fencing' where id = $1")
        .bind(run)
        .execute(&stack.pool)
        .await
        .unwrap();
}

async fn until_stored(stack: &Stack, account: AccountId, events: u64) {
    eventually("the published events are stored", async || {
        (stack.sums(account).await.ok()?.events >= events).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_count_once_even_if_stored_twice_or_dropped() {
    let mut stack = Stack::start(SERVICES, options(1)).await.unwrap();
    stack.billing.kill().await.unwrap();
    let account = AccountId::new();
    let leases = [left(account, 10, 3), left(account, 10, 4), left(account, 10, 0)];
    let run = dead_run(&stack, leases.into());
    until_stored(&stack, account, 2).await;
    // A range that was inserted twice and that no audit has found yet.
    let doubled = "insert into usage_events select * from usage_events where account_id = ?";
    stack
        .clickhouse
        .query(doubled)
        .with_setting("insert_deduplicate", "0")
        .bind(account.0.to_string())
        .execute()
        .await
        .unwrap();
    // The second request with one idempotency key: it succeeded, and its event is dropped.
    let dropped = "insert into usage_duplicates (generation, shard, stream_seq, idx, account_id, lease_id, cost_units, ingested_at)
                   values (1, 0, 1000000, 0, ?, ?, 6, now64(3)), (1, 0, 1000000, 0, ?, ?, 6, now64(3))";
    let (of, by) = (account.0.to_string(), leases[2].lease.0.to_string());
    let dropped = stack.clickhouse.query(dropped).bind(&of).bind(&by).bind(&of).bind(&by);
    dropped.execute().await.unwrap();
    // Units that the run itself gave back.
    sqlx::query(
        "with given as (update quota_leases set returned_units = 5 where id = $1)
         update quota_pool set granted_units = granted_units - 5 where account_id = $2",
    )
    .bind(leases[0].lease.0)
    .bind(account.0)
    .execute(&stack.pool)
    .await
    .unwrap();

    end(&stack, run.0).await;
    stack.billing.restart().await.unwrap();
    until_settled(&stack.pool, run.0).await;
    for (left, returned) in leases.iter().zip([7, 6, 4]) {
        assert_eq!(lease(&stack, left).await, ("settled".to_owned(), returned));
    }
    let granted: i64 = sqlx::query_scalar("select granted_units from quota_pool where account_id = $1")
        .bind(account.0)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(granted, 3 + 4 + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_spent_more_than_it_had_is_reported_and_blocks_no_other() {
    let mut stack = Stack::start(SERVICES, options(1)).await.unwrap();
    let account = AccountId::new();
    let (wrong, right) = (left(account, 5, 8), left(account, 10, 4));
    let run = dead_run(&stack, vec![wrong, right]);
    let metric = async |name| stack.billing.metric::<u64>(name).await.ok();
    eventually("the metric shows the lease", async || {
        let overspent = metric("billing_settle_overspent_leases").await? == 1;
        (overspent && metric("billing_runs{state=\"fencing\"}").await? == 1).then_some(())
    })
    .await;
    assert_eq!(lease(&stack, &wrong).await, ("live".to_owned(), 0));
    assert_eq!(lease(&stack, &right).await, ("settled".to_owned(), 6));
    assert_eq!(runs(&stack.pool, "fencing").await, [run.0]);
    let message = "a lease has more counted units than it held";
    assert!(stack.billing.process().has_logged(message));

    // An operator finds that the lease had more units.
    sqlx::query("update quota_leases set units = 8 where id = $1")
        .bind(wrong.lease.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    stack.billing.restart().await.unwrap();
    until_settled(&stack.pool, run.0).await;
    assert_eq!(lease(&stack, &wrong).await, ("settled".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_too_old_to_count_is_settled_as_spent() {
    let mut stack = Stack::start(SERVICES, options(1)).await.unwrap();
    stack.billing.kill().await.unwrap();
    let account = AccountId::new();
    let old = left(account, 10, 4);
    let run = dead_run(&stack, vec![old]);
    sqlx::query("update quota_leases set created_at = now() - interval '21 days' where id = $1")
        .bind(old.lease.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    end(&stack, run.0).await;
    stack.billing.restart().await.unwrap();
    until_settled(&stack.pool, run.0).await;
    assert_eq!(lease(&stack, &old).await, ("settled".to_owned(), 0));
}

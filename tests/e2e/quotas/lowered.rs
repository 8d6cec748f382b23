//! A lowered limit is in force in every period that a gateway may be in, whatever the clocks of gateways and workers say.

use std::time::Instant;

use billing_worker::accounts::{overrides, overrides::LimitUnits, pool_limits};
use gateway::quota::Refusal;
use harness::{eventually, wait::SOON};
use schema::{Period, clock, period::instant};
use sqlx::Row;

use super::rig::{Customer, Database};

const DAY_S: i64 = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_limit_is_in_force_in_the_period_of_every_gateway() {
    let database = Database::open().await;
    let calls = database.usage_type("api_call");
    let (admin, gateway) = (database.administration(), database.gateway().await);
    let month = Period::calendar_month(clock::now_s());
    let mut expected = 0;
    for (what, gateways_s, worker_s) in [
        ("the clocks agree", month.end - 20, month.end - 20),
        (
            "just after midnight, the worker is slow",
            month.end + 10,
            month.end - 20,
        ),
        (
            "just before midnight, the worker is fast",
            month.end - 10,
            month.end + 20,
        ),
        ("a gateway is two days ahead", month.end + 2 * DAY_S, month.end - 20),
        ("a worker is in the year 2300", month.end - 20, 10_413_792_000),
    ] {
        let customer = database.customer().await;
        let set = async |units| {
            let units = LimitUnits::new(units).unwrap();
            overrides::set(&admin, customer.id, "api_call", units, worker_s)
                .await
                .unwrap();
        };
        set(1_000).await;
        let account = gateway.account(&customer).await;
        let admit = async || gateway.quotas.admit(&account, calls, 1, gateways_s).await;
        // From here on the gateway holds units.
        admit().await.unwrap().spent();

        set(10).await;
        let lowered = Instant::now();
        eventually(what, async || match admit().await {
            Ok(admission) => (admission.quota.limit == 10).then_some(()),
            Err(_) => Some(()),
        })
        .await;
        assert!(lowered.elapsed() < SOON, "{what}: {:?}", lowered.elapsed());
        let mut admitted = 1;
        loop {
            match admit().await {
                Ok(admission) => admission.spent(),
                Err(Refusal::LimitReached(_)) => break,
                Err(refusal) => panic!("{what}: {refusal:?}"),
            }
            admitted += 1;
            assert!(admitted <= 10, "{what}: more than the limit was admitted");
        }
        assert_eq!(admitted, 10, "{what}");
        expected += admitted;
    }
    gateway.stop().await;
    database.assert_settled(expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_catalogue_is_written_into_every_pool_that_may_be_in_use() {
    let database = Database::open().await;
    let customer = database.customer().await;
    let now = clock::now_s();
    let month = Period::calendar_month(now);
    let last = Period::calendar_month(month.start - 1);
    let next = Period::calendar_month(month.end);
    let pools = [
        Period::calendar_month(last.start - 1),
        last,
        month,
        next,
        Period::calendar_month(next.end),
    ];
    for of in pools {
        insert_pool(&database, &customer, of).await;
    }
    let admin = database.administration();
    // The worker's clock decides nothing.
    let changed = pool_limits::refresh(&admin, month.start - 400 * DAY_S).await.unwrap();
    assert_eq!(changed, 1);
    let limits: Vec<(Period, i64)> = sqlx::query(
        "select extract(epoch from period_start)::bigint, extract(epoch from period_end)::bigint, limit_units
         from quota_pool order by period_start",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap()
    .into_iter()
    .map(|row| {
        let period = Period {
            start: row.get(0),
            end: row.get(1),
        };
        (period, row.get(2))
    })
    .collect();
    // Free has 100. A period that ended long ago keeps its limit.
    let expected: Vec<_> = pools
        .into_iter()
        .map(|of| (of, if of.end > now - 7 * DAY_S { 100 } else { 5_000 }))
        .collect();
    assert_eq!(limits, expected);
    assert_eq!(pool_limits::refresh(&admin, now).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_period_that_is_over_only_falls() {
    let database = Database::open().await;
    let customer = database.customer().await;
    let now = clock::now_s();
    let running = Period::anchored_month(now - DAY_S, now);
    let last = Period::anchored_month(running.start, running.start - 1);
    let next = Period::anchored_month(running.start, running.end);
    database.subscribe(&customer, "pro", running).await;
    for of in [last, running, next] {
        insert_pool(&database, &customer, of).await;
    }
    let admin = database.administration();
    for (units, expected) in [(9_000, [5_000, 9_000, 9_000]), (10, [10, 10, 10]), (70, [10, 70, 70])] {
        let units = LimitUnits::new(units).unwrap();
        overrides::set(&admin, customer.id, "api_call", units, now)
            .await
            .unwrap();
        let limits: Vec<i64> = sqlx::query_scalar("select limit_units from quota_pool order by period_start")
            .fetch_all(&database.pool)
            .await
            .unwrap();
        assert_eq!(limits, expected);
    }
}

async fn insert_pool(database: &Database, customer: &Customer, of: Period) {
    sqlx::query(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units)
         values ($1, 'api_call', $2, $3, 5000)",
    )
    .bind(customer.id.0)
    .bind(instant(of.start))
    .bind(instant(of.end))
    .execute(&database.pool)
    .await
    .unwrap();
}

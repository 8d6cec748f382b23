//! The units of a month are charged only when all acknowledged usage is stored.

use uuid::Uuid;

use super::start;

#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_not_charged_while_a_gateway_has_usage_that_is_not_stored() {
    let rig = start("monthly").await;
    let ada = rig.paid_per_year("ada", "pro").await;
    let month = rig.period(&ada).await;
    rig.use_units(&ada, "api_call", 1_100).await;
    let spooling = Uuid::now_v7();
    sqlx::query(
        "insert into gateway_runs (id, gateway, state, generation, shards) values ($1, 'g1', 'spooling', 1, 1)",
    )
    .bind(spooling)
    .execute(&rig.pool)
    .await
    .unwrap();
    rig.end_month(&ada).await;
    let closed = async || -> i64 {
        sqlx::query_scalar("select count(*) from billing_periods where final_at is not null")
            .fetch_one(&rig.pool)
            .await
            .unwrap()
    };
    assert_eq!((rig.totals(&ada), closed().await), (vec![29_000], 0));

    // The gateway is back, and publishes what it has on its disk.
    rig.admitted(&ada, month, &[("api_call", 100)]).await;
    sqlx::query("update gateway_runs set state = 'settled', ended_at = now() where id = $1")
        .bind(spooling)
        .execute(&rig.pool)
        .await
        .unwrap();
    for _ in 0..2 {
        rig.charge().await;
        rig.turn_by(3_700);
        rig.settle().await;
    }
    assert_eq!((rig.totals(&ada), closed().await), (vec![29_000, 300], 1));
    let sum = 29_000 + 300;
    assert_eq!(rig.explained().await, [sum, sum, 0, 0]);
    rig.assert_valid();
}

//! An ingestor that does not do its work says so: on `/readyz`, in the log and as a metric.

use harness::eventually;

use super::rig::{ClickHouseIs, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn a_clickhouse_that_hangs_is_named_until_it_answers() {
    let mut rig = Rig::on(ClickHouseIs::Own, 1, &[]).await;
    let mut lane = rig.lane(0).await;
    lane.batch(&[1, 10]).await;
    rig.assert_stored(lane.written).await;
    rig.own_clickhouse.as_mut().unwrap().pause().unwrap();
    // No insert runs.
    rig.until_alarm(0, "clickhouse: no answer within 5s (since ").await;
    let down = async |value: i64| {
        eventually("the metric shows it", async || {
            let metric = rig.ingestors[0].metric::<i64>("part_down{part=\"clickhouse\"}").await;
            metric.ok().filter(|now| *now == value)
        })
        .await;
    };
    down(1).await;
    rig.own_clickhouse.as_mut().unwrap().resume().unwrap();
    rig.until_ready(0).await;
    for logged in [
        "a part is not available: no answer within 5s",
        "the part is available again",
    ] {
        assert!(rig.ingestors[0].process().has_logged(logged), "{logged}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_stores_nothing_is_named() {
    let mut rig = Rig::on(ClickHouseIs::Own, 1, &[("INSERT_TIMEOUT", "600")]).await;
    let mut lane = rig.lane(1).await;
    lane.batch(&[1]).await;
    rig.assert_stored(lane.written).await;
    rig.own_clickhouse.as_mut().unwrap().pause().unwrap();
    lane.batch(&[10]).await;
    rig.until_alarm(
        0,
        "storing: records wait, and none was stored for 30s, in shard 1 (since ",
    )
    .await;
    let stalled = rig.ingestors[0]
        .metric::<i64>("ingestor_shard_stalled_seconds{shard=\"1\"}")
        .await;
    assert!(stalled.unwrap() >= 30);
    rig.own_clickhouse.as_mut().unwrap().resume().unwrap();
    rig.assert_stored(lane.written).await;
    rig.until_ready(0).await;
}

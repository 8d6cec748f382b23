//! Kills and pauses in the middle of an insert.

use clickhouse::Row;
use ingestor::{
    app::Ingestor,
    config::BatchSettings,
    pipeline::{gathering::Gathering, range::Sealed, record::Record},
};
use schema::{Manifest, names};
use serde::Serialize;

use super::rig::{ClickHouseIs, Rig, event};

#[tokio::test(flavor = "multi_thread")]
async fn units_of_one_ten_a_hundred_and_a_thousand_are_1111() {
    let rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(2).await;
    lane.batch(&[1, 10]).await;
    lane.batch(&[100]).await;
    lane.batch(&[1_000]).await;
    lane.close().await;
    assert_eq!(lane.written.units, 1_111);
    rig.assert_stored(lane.written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_of_an_ingestor_during_inserts_count_each_event_once() {
    let mut rig = Rig::start(1, &[("BATCH_AGE_MAX", "0.02")]).await;
    let load = rig.load().await;
    for _ in 0..10 {
        rig.until_inserting().await;
        rig.ingestors[0].kill().await.unwrap();
        rig.ingestors[0].restart().await.unwrap();
        // Its shards are claimed and work continues.
        let before = rig.stored().await.unwrap();
        harness::eventually("rows are stored again", async || {
            rig.stored().await.filter(|stored| stored.rows > before.rows)
        })
        .await;
    }
    rig.assert_stored(load.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_of_clickhouse_during_inserts_count_each_event_once() {
    let mut rig = Rig::on(ClickHouseIs::Own, 1, &[("BATCH_AGE_MAX", "0.02")]).await;
    let load = rig.load().await;
    for _ in 0..10 {
        rig.until_inserting().await;
        let clickhouse = rig.own_clickhouse.as_mut().unwrap();
        clickhouse.kill().await.unwrap();
        clickhouse.restart().await.unwrap();
        let before = rig.stored().await.unwrap();
        harness::eventually("rows are stored again", async || {
            rig.stored().await.filter(|stored| stored.rows > before.rows)
        })
        .await;
    }
    rig.assert_stored(load.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_continues_where_it_was_after_nats_is_killed_and_restarted() {
    let mut rig = Rig::start(1, &[]).await;
    let load = rig.load().await;
    for _ in 0..3 {
        rig.until_inserting().await;
        rig.nats.kill().await.unwrap();
        rig.nats.restart().await.unwrap();
        let before = rig.stored().await.unwrap();
        harness::eventually("rows are stored again", async || {
            rig.stored().await.filter(|stored| stored.rows > before.rows)
        })
        .await;
    }
    rig.assert_stored(load.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingestor_that_is_paused_while_others_take_over_stores_nothing_twice() {
    let mut rig = Rig::start(2, &[("BATCH_AGE_MAX", "0.02")]).await;
    harness::eventually("both have shards", async || two(&rig.owners().await?)).await;
    let load = rig.load().await;
    for _ in 0..3 {
        let owners = harness::eventually("both have shards", async || two(&rig.owners().await?)).await;
        rig.until_inserting().await;
        rig.ingestors[0].pause().unwrap();
        harness::eventually("the other took over", async || {
            let now = rig.owners().await?;
            (now.iter().all(|owner| *owner == now[0]) && owners.contains(&now[0])).then_some(())
        })
        .await;
        rig.ingestors[0].resume().unwrap();
    }
    rig.assert_stored(load.stop().await).await;
}

/// Both owners, if there are exactly two.
fn two(owners: &[String]) -> Option<Vec<String>> {
    let mut owners = owners.to_vec();
    owners.sort();
    owners.dedup();
    (owners.len() == 2).then_some(owners)
}

/// A row in another shard, inserted to leave a token without the rows of the range. It is in the partition of the range, because
/// ClickHouse remembers tokens by partition.
#[derive(Row, Serialize)]
struct Stranger {
    generation: u32,
    shard: u16,
    stream_seq: u64,
    ingested_at: i64,
}

/// If ClickHouse is killed after it writes the token and before it stores the part, the token has no rows: every retry with the
/// token is confirmed and stores nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_swallowed_by_its_token_is_stored_under_another() {
    let mut rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(0).await;
    rig.assert_stored(lane.written).await;
    rig.ingestors[0].stop(std::time::Duration::from_secs(20)).await.unwrap();

    // The range that an ingestor would have sealed before it was killed.
    let events: Vec<_> = [1, 10, 100, 1_000].into_iter().map(event).collect();
    lane.events(events.clone()).await;
    let mut gathering = Gathering::new(bounds());
    let record = Record {
        seq: lane.last,
        run_id: lane.run,
        events,
        bytes: 0,
        stored_ms: 0,
        permit: None,
    };
    gathering.push(record, std::time::Instant::now());
    let Some(Sealed::Range(range)) = gathering.seal(schema::clock::now_ms()) else {
        panic!("no range")
    };
    let bucket = rig.bucket().await;
    let key = names::manifest_key(0);
    let before = Manifest::decode(&bucket.get(&key).await.unwrap().unwrap()).unwrap();
    let token = range.pending.token(names::USAGE_STREAM, before.generation, 0);
    let after = Manifest {
        pending: Some(range.pending.clone()),
        ..before
    };
    bucket.put(&key, after.encode().into()).await.unwrap();
    let client = rig.clickhouse.clone().with_validation(false);
    let mut insert = client
        .insert::<Stranger>("usage_events")
        .await
        .unwrap()
        .with_setting("insert_deduplication_token", token)
        .with_setting("async_insert", "0");
    let stranger = Stranger {
        generation: 1,
        shard: 99,
        stream_seq: 1,
        ingested_at: range.pending.sealed_at_ms,
    };
    insert.write(&stranger).await.unwrap();
    insert.end().await.unwrap();

    rig.ingestors[0].restart().await.unwrap();
    let of_shard = "select sum(cost_units) from usage_events where shard = 0";
    let units = async || {
        rig.clickhouse
            .query(of_shard)
            .fetch_one::<i64>()
            .await
            .ok()
            .filter(|units| *units > 0)
    };
    assert_eq!(harness::eventually("the range is stored", units).await, 1_111);
    assert!(
        rig.ingestors[0]
            .process()
            .has_logged("has the token of an insert but not its rows")
    );
}

fn bounds() -> BatchSettings {
    let (cli, _) = service::boot::arguments::<Ingestor>(["ingestor".into()]).unwrap();
    cli.settings.batch
}

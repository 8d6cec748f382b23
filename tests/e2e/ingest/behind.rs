//! ClickHouse lost rows that the manifests have as stored. The ingestor notices it, stores them again from the stream before it
//! reads on, and reports what the stream does not have any more.

use std::{process::Output, time::Duration};

use harness::eventually;
use schema::{Manifest, names};

use super::rig::{ClickHouseIs, Lane, Rig, SHARDS, Written};

const STOPPED: Duration = Duration::from_secs(20);
/// Nothing periodic runs during the test.
const NEVER: [(&str, &str); 2] = [("AUDIT_INTERVAL", "3600"), ("TRIM_INTERVAL", "3600")];
/// Stored records leave the stream soon.
const TRIMS: [(&str, &str); 3] = [
    ("AUDIT_INTERVAL", "3600"),
    ("TRIM_INTERVAL", "0.3"),
    ("REPLAY_WINDOW", "0.5"),
];

async fn sql(rig: &Rig, sql: &str) {
    rig.clickhouse.query(sql).execute().await.unwrap();
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn succeeds(rig: &Rig, command: &str) -> String {
    let output = rig.command(command).await;
    assert!(output.status.success(), "{command}: {}", log(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Batches in the shards 0 and 2.
async fn write(rig: &Rig) -> (Lane, Lane, Written) {
    let (mut a, mut b) = (rig.lane(0).await, rig.lane(2).await);
    for _ in 0..5 {
        a.batch(&[1, 10, 100]).await;
        b.batch(&[1_000, -7]).await;
    }
    let mut written = a.written;
    written += b.written;
    rig.assert_stored(written).await;
    (a, b, written)
}

async fn metric(rig: &Rig, name: &str) -> Option<i64> {
    rig.ingestors[0].metric(name).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_dropped_while_no_ingestor_runs_are_filled_again() {
    let mut rig = Rig::start(1, &NEVER).await;
    let (mut lane, _, mut written) = write(&rig).await;
    for tables in [
        &["usage_events"][..],
        &["usage_events", "usage_duplicates", "schema_migrations"],
    ] {
        rig.ingestors[0].stop(STOPPED).await.unwrap();
        for table in tables {
            sql(&rig, &format!("drop table {table}")).await;
        }
        rig.ingestors[0].restart().await.unwrap();
        rig.assert_stored(written).await;
        lane.batch(&[7]).await;
        written += Written { events: 1, units: 7 };
        rig.assert_stored(written).await;
        rig.until_ready(0).await;
    }
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_dropped_under_load_is_filled_again() {
    let rig = Rig::start(2, &[("BATCH_AGE_MAX", "0.02")]).await;
    let load = rig.load().await;
    eventually("many rows", async || {
        rig.stored().await.filter(|stored| stored.rows > 5_000)
    })
    .await;
    sql(&rig, "drop table usage_events").await;
    eventually("rows are stored again", async || {
        rig.stored().await.filter(|stored| stored.rows > 5_000)
    })
    .await;
    rig.assert_stored(load.stop().await).await;
    rig.until_ready(0).await;
    rig.until_ready(1).await;
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_table_is_noticed_by_the_next_range() {
    let rig = Rig::start(1, &NEVER).await;
    let (mut a, mut b, _) = write(&rig).await;
    sql(&rig, "create table kept as usage_events").await;
    sql(&rig, "insert into kept select * from usage_events").await;
    for lane in [&mut a, &mut b] {
        lane.batch(&[2, 20, 200]).await;
        lane.batch(&[2_000]).await;
    }
    let mut written = a.written;
    written += b.written;
    rig.assert_stored(written).await;

    // The backup is restored while the ingestor works.
    sql(&rig, "rename table usage_events to lost, kept to usage_events").await;
    a.batch(&[3]).await;
    b.batch(&[30]).await;
    written += Written { events: 2, units: 33 };
    rig.assert_stored(written).await;
    assert!(metric(&rig, "ingestor_alarms_total{shard=\"0\"}").await >= Some(1));
    eventually("no shard is behind", async || {
        let behind = metric(&rig, "ingestor_shard_behind{shard=\"0\"}").await?;
        (behind == 0).then_some(())
    })
    .await;
    assert_eq!(
        metric(&rig, "ingestor_audit_missing_rows_total{shard=\"0\"}").await,
        Some(4)
    );
    rig.until_ready(0).await;
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_table_is_noticed_without_new_events() {
    let rig = Rig::start(1, &[("AUDIT_INTERVAL", "3600"), ("TRIM_INTERVAL", "0.3")]).await;
    let (.., written) = write(&rig).await;
    for _ in 0..2 {
        sql(&rig, "truncate table usage_events").await;
        rig.assert_stored(written).await;
    }
    rig.until_ready(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_stays_in_the_stream_until_clickhouse_has_its_rows_again() {
    let rig = Rig::start(
        1,
        &[
            ("AUDIT_INTERVAL", "3600"),
            ("TRIM_INTERVAL", "1"),
            ("REPLAY_WINDOW", "4"),
        ],
    )
    .await;
    let (mut lane, mut other, _) = write(&rig).await;
    // Not the newest rows, so only a comparison of all records finds it.
    lane.batch(&[5]).await;
    other.batch(&[5]).await;
    let mut written = lane.written;
    written += other.written;
    rig.assert_stored(written).await;
    sql(
        &rig,
        "alter table usage_events delete where cost_units in (10, -7) settings mutations_sync = 2",
    )
    .await;
    eventually("the stream is trimmed", async || {
        let info = rig.jetstream.get_stream(names::USAGE_STREAM).await.ok()?;
        // The last records of the open lanes stay.
        (info.cached_info().state.messages == 2).then_some(())
    })
    .await;
    rig.assert_stored(written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_stream_cannot_bring_back_are_reported_until_they_are_accepted() {
    let mut rig = Rig::start(1, &TRIMS).await;
    let (mut lane, ..) = write(&rig).await;
    eventually("the stream is trimmed", async || {
        let info = rig.jetstream.get_stream(names::USAGE_STREAM).await.ok()?;
        (info.cached_info().state.messages == 2).then_some(())
    })
    .await;
    assert!(succeeds(&rig, "losses").await.contains("nothing is lost"));
    sql(&rig, "truncate table usage_events").await;
    let lost = async |rig: &Rig, ranges| {
        eventually("the metric shows the lost ranges", async || {
            let now = metric(rig, "ingestor_shard_lost_ranges{shard=\"0\"}").await;
            now.filter(|now| *now == ranges)
        })
        .await;
    };
    lost(&rig, 1).await;
    // Ingest continues, also after a restart.
    let before = rig.stored().await.unwrap().rows;
    lane.batch(&[7]).await;
    eventually("a new row", async || {
        rig.stored().await.filter(|stored| stored.rows > before)
    })
    .await;
    rig.ingestors[0].restart().await.unwrap();
    lost(&rig, 1).await;
    let says = async |line: &str| {
        eventually(&format!("a ready ingestor says `{line}`"), async || {
            rig.ready(0)
                .await
                .filter(|(ready, report)| *ready && report.contains(line))
        })
        .await;
    };
    says("rows: shard 0: the rows of records").await;
    let listed = succeeds(&rig, "losses").await;
    assert!(
        listed.contains("shard 0: records 1 to") && listed.contains("shard 2: records 1 to"),
        "{listed}"
    );
    succeeds(&rig, "losses --accept").await;
    lost(&rig, 0).await;
    assert!(succeeds(&rig, "losses").await.contains("nothing is lost"));
    says("rows: ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_while_lost_rows_are_stored_again_count_each_event_once() {
    let mut rig = Rig::on(ClickHouseIs::Own, 1, &NEVER).await;
    let load = rig.load().await;
    eventually("many rows", async || {
        rig.stored().await.filter(|stored| stored.rows > 20_000)
    })
    .await;
    let written = load.stop().await;
    rig.assert_stored(written).await;
    for kill in 0..6 {
        rig.ingestors[0].stop(STOPPED).await.unwrap();
        sql(&rig, "truncate table usage_events").await;
        rig.ingestors[0].restart().await.unwrap();
        eventually("some rows are there again", async || {
            rig.stored().await.filter(|stored| stored.rows > 0)
        })
        .await;
        match kill % 2 {
            0 => {
                rig.ingestors[0].kill().await.unwrap();
                rig.ingestors[0].restart().await.unwrap();
            }
            _ => {
                let clickhouse = rig.own_clickhouse.as_mut().unwrap();
                clickhouse.kill().await.unwrap();
                clickhouse.restart().await.unwrap();
            }
        }
        rig.assert_stored(written).await;
    }
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_behind_is_not_covered_by_its_manifest() {
    let mut rig = Rig::start(1, &NEVER).await;
    write(&rig).await;
    rig.ingestors[0].stop(STOPPED).await.unwrap();
    sql(&rig, "drop table usage_events").await;
    // `ingestor migrate` creates the table, and marks the shards for the ingestors.
    succeeds(&rig, "migrate").await;
    let manifests = rig.manifests().await;
    let behind = |manifest: &Manifest| (manifest.done_through > 0, manifest.behind_from);
    assert_eq!(manifests.len(), usize::from(SHARDS));
    assert_eq!(behind(&manifests[0]), (true, Some(1)));
    assert_eq!(behind(&manifests[2]), (true, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn audits_read_what_queries_read() {
    let mut rig = Rig::start(1, &NEVER).await;
    let (.., written) = write(&rig).await;
    rig.ingestors[0].stop(STOPPED).await.unwrap();
    // It only masks the rows.
    sql(&rig, "delete from usage_events where cost_units in (10, 1000)").await;
    let stored = rig.stored().await.unwrap();
    assert_eq!(stored.rows, written.events - 10);
    let audit = rig.command("audit").await;
    assert!(
        !audit.status.success() && log(&audit).contains("10 rows were missing"),
        "{}",
        log(&audit)
    );
    rig.assert_stored(written).await;
    sql(
        &rig,
        "alter table usage_events apply deleted mask settings mutations_sync = 2",
    )
    .await;
    rig.assert_stored(written).await;
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_retention_deleted_are_not_put_back() {
    let mut rig = Rig::start(1, &NEVER).await;
    let (mut lane, _, written) = write(&rig).await;
    // The days of all events are closed, and retention deletes rows of closed days in this way.
    for close in [
        "insert into usage_daily select bill_day, toUUID('01a226fb-3611-768d-8ebb-5d8735f798db'), account_id, usage_type, \
         period_start, sum(cost_units), count() from usage_events group by account_id, usage_type, period_start, bill_day",
        "insert into usage_closed_days select max(bill_day), toUUID('01a226fb-3611-768d-8ebb-5d8735f798db'), \
         sum(cost_units), count(), now64(6) from usage_events",
        "delete from usage_events where cost_units != 100",
    ] {
        sql(&rig, close).await;
    }
    let kept = rig.stored().await.unwrap();
    assert_eq!(kept.rows, 5);
    let sum = async |rig: &Rig| {
        let sum = rig
            .clickhouse
            .query("select toInt64(sum(cost_units)) from usage")
            .fetch_one::<i64>();
        sum.await.unwrap()
    };
    assert_eq!(sum(&rig).await, written.units);
    for command in ["audit", "raise-generation", "audit"] {
        succeeds(&rig, command).await;
        assert_eq!(
            (rig.stored().await, sum(&rig).await),
            (Some(kept), written.units),
            "{command}"
        );
    }
    rig.ingestors[0].restart().await.unwrap();
    // A new event falls on a day that is open only in the future, so only its row shows that the shard continues.
    lane.batch(&[9]).await;
    eventually("a new row", async || {
        rig.stored().await.filter(|stored| stored.rows == 6)
    })
    .await;
    succeeds(&rig, "audit").await;
    assert_eq!(rig.stored().await.unwrap().rows, 6);
}

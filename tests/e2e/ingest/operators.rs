//! Problems that need an operator, and the commands that solve them.

use std::{fs, time::Duration};

use async_nats::jetstream::stream::Stream;
use futures_util::TryStreamExt;
use harness::eventually;
use schema::{UsageEvent, names};

use super::rig::{Rig, Written, copy, event};

async fn usage(rig: &Rig) -> Stream<()> {
    rig.jetstream.get_stream_no_info(names::USAGE_STREAM).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_decoded_become_dead_letters_and_the_rest_is_stored() {
    let rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(1).await;
    lane.batch(&[1]).await;
    lane.append(b"\xff\xffnonsense".to_vec()).await;
    let dead_at = lane.last;
    lane.batch(&[10]).await;
    // The table cannot hold its time.
    lane.events(vec![UsageEvent {
        time_ms: i64::MAX,
        ..event(5)
    }])
    .await;
    lane.batch(&[100]).await;
    rig.assert_stored(lane.written).await;

    let dead = rig.jetstream.get_stream(names::DEAD_STREAM).await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 2);
    let letter = dead.get_first_raw_message_by_subject(names::dead(1), 1).await.unwrap();
    assert_eq!(&letter.payload[..], b"\xff\xffnonsense");
    assert_eq!(
        letter.headers.get(names::DEAD_POSITION).unwrap().as_str(),
        format!("1/1/{dead_at}")
    );
    assert!(
        letter
            .headers
            .get(names::DEAD_REASON)
            .unwrap()
            .as_str()
            .contains("malformed")
    );
    // A dead letter is not a missing row.
    assert!(rig.command("audit").await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_version_stops_its_shard_and_no_other() {
    let rig = Rig::start(1, &[]).await;
    let (mut lane, mut other) = (rig.lane(0).await, rig.lane(1).await);
    lane.batch(&[1, 10]).await;
    // Only the version field, with value 2.
    lane.append(vec![8, 2]).await;
    let before = lane.written;
    lane.batch(&[1_000]).await;
    rig.until_alarm(0, "shard 0: lane record version 2 is newer").await;
    other.batch(&[100]).await;
    let mut stored = before;
    stored += other.written;
    rig.assert_stored(stored).await;
    assert!(
        rig.manifests().await[0].done_through < lane.last,
        "the record is not skipped"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_clickhouse_refuses_raise_an_alarm_and_are_stored_once_it_accepts_them() {
    let rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(3).await;
    lane.batch(&[1]).await;
    rig.assert_stored(lane.written).await;
    let alter = |sql: &'static str| rig.clickhouse.query(sql).execute();
    alter("alter table usage_events add constraint small check cost_units < 500")
        .await
        .unwrap();
    lane.batch(&[10, 1_000]).await;
    rig.until_alarm(0, "VIOLATED_CONSTRAINT").await;
    lane.batch(&[100]).await;
    alter("alter table usage_events drop constraint small").await.unwrap();
    rig.assert_stored(lane.written).await;
    rig.until_ready(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_stores_missing_rows_and_removes_doubled_ones() {
    let mut rig = Rig::start(1, &[]).await;
    let mut written = Written::default();
    for shard in 0..2 {
        let mut lane = rig.lane(shard).await;
        for _ in 0..20 {
            lane.batch(&[1, 10, 100, 1_000]).await;
        }
        lane.close().await;
        written += lane.written;
    }
    rig.assert_stored(written).await;
    assert!(rig.command("audit").await.status.success(), "nothing differs");

    let run = async |sql: &str| rig.clickhouse.query(sql).execute().await.unwrap();
    run(
        "alter table usage_events delete where shard = 0 and (stream_seq % 3 = 0 or (stream_seq % 3 = 1 and idx = 2)) \
         settings mutations_sync = 2",
    )
    .await;
    // As an ingestor does after a long pause: the same rows, another attempt, a token that ClickHouse has forgotten.
    run(
        "insert into usage_events select * replace (generateUUIDv7() as insert_id) from usage_events \
         where shard = 1 and stream_seq % 2 = 0 settings insert_deduplication_token = 'late'",
    )
    .await;
    run(
        "insert into usage_events select * replace (toUUID('ffffffff-ffff-7fff-bfff-ffffffffffff') as insert_id) \
         from usage_events where shard = 0 and idx = 1 settings insert_deduplication_token = 'later'",
    )
    .await;
    assert_ne!(rig.stored().await.unwrap().rows, written.events);

    let audit = rig.command("audit").await;
    assert!(!audit.status.success(), "the exit code says that rows were wrong");
    let error = String::from_utf8_lossy(&audit.stderr).into_owned();
    assert!(error.contains("0 are still wrong"), "{error}");
    rig.assert_stored(written).await;
    assert!(rig.command("audit").await.status.success(), "the repair is complete");
    rig.ingestors[0].stop(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_ingestor_audits_periodically() {
    let rig = Rig::start(1, &[("AUDIT_INTERVAL", "0.5")]).await;
    let mut lane = rig.lane(1).await;
    lane.batch(&[1, 10, 100, 1_000]).await;
    rig.assert_stored(lane.written).await;
    let delete = "alter table usage_events delete where cost_units = 10 settings mutations_sync = 2";
    rig.clickhouse.query(delete).execute().await.unwrap();
    rig.assert_stored(lane.written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trimming_keeps_unstored_records_and_the_last_record_of_each_open_lane() {
    let rig = Rig::start(1, &[("REPLAY_WINDOW", "0.5"), ("TRIM_INTERVAL", "0.3")]).await;
    let (mut open, mut closed) = (rig.lane(0).await, rig.lane(0).await);
    for _ in 0..5 {
        open.batch(&[1, 10]).await;
        closed.batch(&[100, 1_000]).await;
    }
    closed.close().await;
    let mut written = open.written;
    written += closed.written;
    rig.assert_stored(written).await;
    let lanes = async || -> Option<Vec<(String, usize)>> {
        let stream = usage(&rig).await;
        stream
            .info_with_subjects(names::USAGE_SUBJECTS)
            .await
            .ok()?
            .try_collect()
            .await
            .ok()
    };
    let left = vec![(open.subject.clone(), 1)];
    eventually("only the last record of the open lane is left", async || {
        lanes().await.filter(|lanes| *lanes == left)
    })
    .await;
    // The lane still accepts the next record.
    open.batch(&[7]).await;
    written += Written { events: 1, units: 7 };
    rig.assert_stored(written).await;

    // A shard that cannot be stored is not trimmed.
    open.append(vec![8, 2]).await;
    open.batch(&[9]).await;
    rig.until_alarm(0, "newer").await;
    let (newer, batch) = (open.last - 1, open.last);
    let mut other = rig.lane(1).await;
    other.batch(&[3]).await;
    let trimmed = (other.subject.clone(), 1);
    eventually("another shard was trimmed", async || {
        lanes().await.filter(|lanes| lanes.contains(&trimmed))
    })
    .await;
    for seq in [newer, batch] {
        assert!(
            usage(&rig).await.get_raw_message(seq).await.is_ok(),
            "record {seq} is gone"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_manifests_are_restored_from_clickhouse() {
    let mut rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(2).await;
    lane.batch(&[1, 10]).await;
    rig.assert_stored(lane.written).await;
    rig.ingestors[0].stop(Duration::from_secs(20)).await.unwrap();
    let bucket = rig.bucket().await;
    for shard in 0..super::rig::SHARDS {
        bucket.purge(names::manifest_key(shard)).await.unwrap();
    }
    lane.batch(&[100, 1_000]).await;
    rig.ingestors[0].restart().await.unwrap();
    rig.assert_stored(lane.written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_database_is_an_error_and_is_not_created() {
    let rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(0).await;
    lane.batch(&[1, 10]).await;
    rig.assert_stored(lane.written).await;
    let mistyped = format!("mistyped_{:016x}", rand::random::<u64>());
    for migrate in ["true", "false"] {
        for command in ["run", "audit", "raise-generation"] {
            let settings = [
                ("CLICKHOUSE_DATABASE", mistyped.as_str()),
                ("ADMIN_ADDR", "127.0.0.1:0"),
                ("MIGRATE", migrate),
            ];
            let output = rig.command_with(command, &settings).await;
            let shown = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command}: {shown}");
            assert!(
                shown.contains("CLICKHOUSE_DATABASE") && shown.contains(&mistyped),
                "{command}: {shown}"
            );
        }
    }
    let created = rig
        .clickhouse
        .query("select count() from system.databases where name = ?")
        .bind(&mistyped)
        .fetch_one::<u64>()
        .await
        .unwrap();
    assert_eq!(created, 0);
    rig.assert_stored(lane.written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_stream_waits_for_a_new_generation() {
    let mut rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(0).await;
    lane.batch(&[1, 10]).await;
    let mut written = lane.written;
    rig.assert_stored(written).await;
    rig.ingestors[0].stop(Duration::from_secs(20)).await.unwrap();
    rig.jetstream.delete_stream(names::USAGE_STREAM).await.unwrap();

    rig.ingestors[0].restart().await.unwrap();
    // At least as many records as before, so the sequences do not show that the records are different.
    let mut lane = rig.lane(0).await;
    for _ in 0..5 {
        lane.batch(&[100]).await;
    }
    rig.until_alarm(0, "raise-generation").await;
    rig.assert_stored(written).await;
    assert!(rig.command("raise-generation").await.status.success());
    written += lane.written;
    rig.assert_stored(written).await;
    rig.until_ready(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_stream_is_stored_from_its_first_unstored_record() {
    let mut rig = Rig::start(1, &[]).await;
    let stopped = Duration::from_secs(20);
    let mut lane = rig.lane(0).await;
    lane.batch(&[1, 10]).await;
    let mut written = lane.written;
    rig.assert_stored(written).await;

    // Make a backup, store more events, restore the backup. The restored manifests are outdated.
    let (store, backup) = (rig.data.path().join("nats/jetstream"), rig.data.path().join("backup"));
    rig.ingestors[0].stop(stopped).await.unwrap();
    rig.nats.stop().await.unwrap();
    copy(&store, &backup);
    rig.nats.restart().await.unwrap();
    rig.ingestors[0].restart().await.unwrap();
    let mut lost = rig.lane(0).await;
    lost.batch(&[100]).await;
    written += lost.written;
    rig.assert_stored(written).await;
    rig.ingestors[0].stop(stopped).await.unwrap();
    rig.nats.stop().await.unwrap();
    fs::remove_dir_all(&store).unwrap();
    copy(&backup, &store);
    rig.nats.restart().await.unwrap();

    // The gateways were faster than the operator: new records took the positions of the lost ones.
    let mut new = rig.lane(0).await;
    new.batch(&[1_000]).await;
    new.batch(&[2_000]).await;
    rig.ingestors[0].restart().await.unwrap();
    rig.until_alarm(0, "raise-generation").await;
    assert!(rig.command("raise-generation").await.status.success());
    written += new.written;
    rig.assert_stored(written).await;
}

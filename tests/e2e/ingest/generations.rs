//! Raising the generation and audits, in every order: each event keeps one row, whichever generation stored it.

use std::{fs, process::Output, time::Duration};

use harness::eventually;
use schema::{AccountId, names};

use super::{
    duplicates::{Expected, assert_exact, keyed},
    rig::{Lane, Rig, Written, copy, event},
};

const STOPPED: Duration = Duration::from_secs(20);

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that must succeed.
async fn succeeds(rig: &Rig, command: &str) {
    let output = rig.command(command).await;
    assert!(output.status.success(), "{command}: {}", log(&output));
}

/// Runs an audit that must find this.
async fn audit_finds(rig: &Rig, what: &str) {
    let audit = rig.command("audit").await;
    let log = log(&audit);
    assert!(!audit.status.success() && log.contains(what), "{log}");
}

/// Waits for an audit that began after this call: the second that ends.
async fn audited_again(rig: &Rig) {
    let audited = async || {
        let metric = rig.ingestors[0].metric::<u64>("ingestor_audited_records_total{shard=\"0\"}");
        metric.await.ok()
    };
    for _ in 0..2 {
        let before = audited().await.unwrap_or(0);
        eventually("a periodic audit", async || {
            audited().await.filter(|audited| *audited > before)
        })
        .await;
    }
}

/// Events without a key, with a key, and retries of them.
async fn write(lane: &mut Lane, account: AccountId, round: i64, expected: &mut Expected) {
    let key = round.to_string();
    lane.events(vec![event(1), keyed(account, &key, 10), event(100)]).await;
    lane.events(vec![keyed(account, &key, 10), event(1_000)]).await;
    lane.events(vec![keyed(account, &key, 10), keyed(account, "0", 10)])
        .await;
    [1, 10, 100, 1_000].into_iter().for_each(|cost| expected.stored(cost));
    (0..3).for_each(|_| expected.dropped(10));
}

async fn delete(rig: &Rig, which: &str) {
    let sql = format!("alter table usage_events delete where {which} settings mutations_sync = 2");
    rig.clickhouse.query(&sql).execute().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn audits_of_a_raised_generation_store_no_event_again() {
    let mut rig = Rig::start(1, &[("AUDIT_INTERVAL", "0.3")]).await;
    let (account, mut expected) = (AccountId::new(), Expected::default());
    let mut lane = rig.lane(0).await;
    lane.events(vec![keyed(account, "0", 10)]).await;
    expected.stored(10);
    for round in 1..4 {
        write(&mut lane, account, round, &mut expected).await;
        assert_exact(&rig, expected).await;
        // Before an ingestor works in the new generation.
        rig.ingestors[0].stop(STOPPED).await.unwrap();
        succeeds(&rig, "raise-generation").await;
        succeeds(&rig, "audit").await;
        assert_exact(&rig, expected).await;
        rig.ingestors[0].restart().await.unwrap();
        audited_again(&rig).await;
        assert_exact(&rig, expected).await;
    }
    succeeds(&rig, "audit").await;

    // Rows that no generation has are missing, and only those are stored.
    rig.ingestors[0].stop(STOPPED).await.unwrap();
    delete(
        &rig,
        "generation = 2 and cost_units = 100 or idempotency_key = '1' or stream_seq = 2",
    )
    .await;
    audit_finds(&rig, "0 are still wrong").await;
    assert_exact(&rig, expected).await;
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_is_raised_under_load_stores_each_event_once() {
    let rig = Rig::start(1, &[("AUDIT_INTERVAL", "0.3"), ("BATCH_AGE_MAX", "0.02")]).await;
    let load = rig.load().await;
    for generation in 2..5 {
        rig.until_inserting().await;
        succeeds(&rig, "raise-generation").await;
        eventually("rows of the new generation", async || {
            let sql = "select count() from usage_events where generation = ?";
            let rows = rig.clickhouse.query(sql).bind(generation).fetch_one::<u64>();
            rows.await.ok().filter(|rows| *rows > 0)
        })
        .await;
    }
    rig.assert_stored(load.stop().await).await;
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_stream_with_old_and_new_records_is_audited_exactly() {
    let mut rig = Rig::start(1, &[("AUDIT_INTERVAL", "0.3")]).await;
    let (account, mut expected) = (AccountId::new(), Expected::default());
    let mut lane = rig.lane(0).await;
    lane.events(vec![keyed(account, "0", 10)]).await;
    expected.stored(10);
    write(&mut lane, account, 1, &mut expected).await;
    assert_exact(&rig, expected).await;

    // Make a backup, raise the generation, store more in it, and restore the backup of the first generation.
    let (store, backup) = (rig.data.path().join("nats/jetstream"), rig.data.path().join("backup"));
    rig.ingestors[0].stop(STOPPED).await.unwrap();
    rig.nats.stop().await.unwrap();
    copy(&store, &backup);
    rig.nats.restart().await.unwrap();
    succeeds(&rig, "raise-generation").await;
    rig.ingestors[0].restart().await.unwrap();
    let mut lost = rig.lane(0).await;
    write(&mut lost, account, 2, &mut expected).await;
    assert_exact(&rig, expected).await;
    rig.ingestors[0].stop(STOPPED).await.unwrap();
    rig.nats.stop().await.unwrap();
    fs::remove_dir_all(&store).unwrap();
    copy(&backup, &store);
    rig.nats.restart().await.unwrap();

    // Retries of lost requests, and new requests, at the positions of lost records and after them.
    let mut new = rig.lane(0).await;
    for round in 3..6 {
        new.events(vec![keyed(account, "2", 10)]).await;
        expected.dropped(10);
        write(&mut new, account, round, &mut expected).await;
    }
    succeeds(&rig, "raise-generation").await;
    succeeds(&rig, "audit").await;
    rig.ingestors[0].restart().await.unwrap();
    assert_exact(&rig, expected).await;
    audited_again(&rig).await;
    assert_exact(&rig, expected).await;

    delete(
        &rig,
        "generation = 1 and cost_units = 100 or generation = 3 and cost_units = 1",
    )
    .await;
    eventually("a periodic audit repairs both generations", async || {
        rig.stored()
            .await
            .filter(|stored| stored.rows == expected.stored.events)
    })
    .await;
    assert_exact(&rig, expected).await;
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_lost_before_the_generation_is_raised_are_stored_once() {
    let mut rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(1).await;
    for _ in 0..6 {
        lane.batch(&[1, 10, 100, 1_000]).await;
    }
    rig.assert_stored(lane.written).await;
    rig.ingestors[0].stop(STOPPED).await.unwrap();
    delete(&rig, "stream_seq = 3 or stream_seq = 5 and idx > 1").await;
    succeeds(&rig, "raise-generation").await;
    rig.ingestors[0].restart().await.unwrap();
    rig.assert_stored(lane.written).await;
    lane.batch(&[7]).await;
    rig.assert_stored(lane.written).await;
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_stores_nothing_while_the_stream_is_another_one() {
    let mut rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(0).await;
    for _ in 0..4 {
        lane.batch(&[1, 10]).await;
    }
    let mut written = lane.written;
    rig.assert_stored(written).await;
    rig.ingestors[0].stop(STOPPED).await.unwrap();
    let config = rig.jetstream.get_stream(names::USAGE_STREAM).await.unwrap();
    let config = config.cached_info().config.clone();
    rig.jetstream.delete_stream(names::USAGE_STREAM).await.unwrap();
    // As a backup of an empty stream: it keeps its generation.
    rig.jetstream.create_stream(config).await.unwrap();
    let mut lane = rig.lane(0).await;
    for _ in 0..9 {
        lane.batch(&[100, 1_000, 7]).await;
    }
    audit_finds(&rig, "raise-generation").await;
    assert_eq!(rig.stored().await.map(|stored| stored.rows), Some(written.events));
    succeeds(&rig, "raise-generation").await;
    rig.ingestors[0].restart().await.unwrap();
    written += lane.written;
    rig.assert_stored(written).await;
    succeeds(&rig, "audit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_two_generations_stored_are_reported() {
    let rig = Rig::start(1, &[("AUDIT_INTERVAL", "0.3")]).await;
    let mut lane = rig.lane(0).await;
    lane.batch(&[1, 10, 100]).await;
    rig.assert_stored(lane.written).await;
    succeeds(&rig, "raise-generation").await;
    lane.batch(&[1_000]).await;
    rig.assert_stored(lane.written).await;
    let again = "insert into usage_events select * replace (2 as generation, generateUUIDv7() as insert_id) \
                 from (select * from usage_events where cost_units in (10, 100)) \
                 settings insert_deduplication_token = 'again'";
    rig.clickhouse.query(again).execute().await.unwrap();
    assert_eq!(
        rig.stored().await.map(|stored| (stored.rows, stored.events)),
        Some((6, 4))
    );
    audit_finds(&rig, "2 rows repeat an event").await;
    eventually("the metric shows them", async || {
        let metric = rig.ingestors[0].metric::<i64>("ingestor_audit_repeated_rows{shard=\"0\"}");
        metric.await.ok().filter(|rows| *rows == 2)
    })
    .await;
    let all = Written {
        events: 6,
        units: 1_221,
    };
    assert_eq!(
        rig.stored().await.map(|stored| (stored.rows, stored.units)),
        Some((all.events, all.units)),
        "an audit removes no row of another generation"
    );
}

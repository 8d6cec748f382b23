//! Events with the same `Idempotency-Key` in the stream: the first is stored, the others are dropped and recorded in another
//! table, whichever process dies.

use std::time::Duration;

use clickhouse::Row;
use harness::eventually;
use schema::{AccountId, EventId, UsageEvent, names};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::rig::{Lane, Rig, SHARDS, Written, event};

/// The positions and units of dropped events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Row, Deserialize)]
pub(super) struct Dropped {
    pub events: u64,
    pub units: i64,
}

/// The events that must be stored, and those that must be dropped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    pub stored: Written,
    pub dropped: Dropped,
}

impl Expected {
    pub(super) fn stored(&mut self, cost: i64) {
        self.stored += Written { events: 1, units: cost };
    }

    pub(super) fn dropped(&mut self, cost: i64) {
        self.dropped.events += 1;
        self.dropped.units += cost;
    }
}

pub(super) fn keyed(account: AccountId, key: &str, cost: i64) -> UsageEvent {
    UsageEvent {
        event_id: EventId::of_idempotency_key(account, key),
        account_id: account,
        idempotency_key: key.to_owned(),
        ..event(cost)
    }
}

async fn dropped(rig: &Rig) -> Option<Dropped> {
    let sql = "select count() as events, sum(cost_units) as units from
                   (select distinct generation, shard, stream_seq, idx, cost_units from usage_duplicates)";
    rig.clickhouse.query(sql).fetch_one().await.ok()
}

/// The ledger check for both tables.
pub(super) async fn assert_exact(rig: &Rig, expected: Expected) {
    rig.assert_stored(expected.stored).await;
    eventually(&format!("{:?} are stored separately", expected.dropped), async || {
        dropped(rig)
            .await
            .filter(|there| there.events >= expected.dropped.events)
    })
    .await;
    eventually("nothing is pending", async || {
        let manifests = rig.manifests().await;
        manifests
            .iter()
            .all(|manifest| manifest.pending.is_none())
            .then_some(())
    })
    .await;
    assert_eq!(dropped(rig).await, Some(expected.dropped));
    rig.assert_stored(expected.stored).await;
}

/// Two gateways that write to one shard. The second gets retries of requests that the first got.
async fn retry(mut first: Lane, mut second: Lane, stopping: CancellationToken) -> Expected {
    let (account, mut expected, mut round) = (AccountId::new(), Expected::default(), 0i64);
    let cost = |key: i64| [1, 10, 100, 1_000][(key % 4) as usize];
    while !stopping.is_cancelled() {
        round += 1;
        let keys: Vec<i64> = (round * 5..(round + 1) * 5).collect();
        let mut events: Vec<_> = keys
            .iter()
            .map(|key| keyed(account, &key.to_string(), cost(*key)))
            .collect();
        events.push(event(7));
        first.events(events).await;
        keys.iter().for_each(|key| expected.stored(cost(*key)));
        expected.stored(7);

        // The retry comes immediately, after a long time, and twice in one record.
        let again = [keys[0], keys[1], keys[1], 5 + round * 3 % (round * 5)];
        let mut events: Vec<_> = again
            .iter()
            .map(|key| keyed(account, &key.to_string(), cost(*key)))
            .collect();
        events.insert(1, event(-3));
        second.events(events).await;
        again.iter().for_each(|key| expected.dropped(cost(*key)));
        expected.stored(-3);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    expected
}

async fn load(rig: &Rig) -> (JoinSet<Expected>, CancellationToken) {
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    for shard in 0..SHARDS {
        tasks.spawn(retry(rig.lane(shard).await, rig.lane(shard).await, stop.clone()));
    }
    (tasks, stop)
}

async fn stopped((tasks, stop): (JoinSet<Expected>, CancellationToken)) -> Expected {
    stop.cancel();
    let mut all = Expected::default();
    for of_shard in tasks.join_all().await {
        all.stored += of_shard.stored;
        all.dropped.events += of_shard.dropped.events;
        all.dropped.units += of_shard.dropped.units;
    }
    assert!(all.dropped.events > 0);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_of_an_ingestor_drop_each_duplicate_once() {
    // Little memory, so that the ingestor must look some ids up in ClickHouse.
    let env = [("BATCH_AGE_MAX", "0.02"), ("IDEMPOTENCY_KEYS_MAX", "400")];
    let mut rig = Rig::start(1, &env).await;
    let load = load(&rig).await;
    for _ in 0..10 {
        eventually("a range with duplicates is being stored", async || {
            let manifests = rig.manifests().await;
            let mut pending = manifests.iter().filter_map(|manifest| manifest.pending.as_ref());
            pending.any(|pending| !pending.dropped.is_empty()).then_some(())
        })
        .await;
        rig.ingestors[0].kill().await.unwrap();
        rig.ingestors[0].restart().await.unwrap();
        let before = rig.stored().await.unwrap();
        eventually("rows are stored again", async || {
            rig.stored().await.filter(|stored| stored.rows > before.rows)
        })
        .await;
    }
    assert_exact(&rig, stopped(load).await).await;
    let audit = rig.command("audit").await;
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingestor_that_takes_over_looks_up_stored_ids_in_clickhouse() {
    let mut rig = Rig::start(1, &[]).await;
    let (account, mut expected) = (AccountId::new(), Expected::default());
    let (mut first, mut second) = (rig.lane(1).await, rig.lane(1).await);
    let batch = |costs: [i64; 3]| costs.map(|cost| keyed(account, &format!("key {cost}"), cost)).to_vec();
    first.events(batch([1, 10, 100])).await;
    [1, 10, 100].into_iter().for_each(|cost| expected.stored(cost));
    assert_exact(&rig, expected).await;

    rig.ingestors[0].kill().await.unwrap();
    rig.add_ingestor().await;
    second.events(batch([10, 100, 1_000])).await;
    [10, 100].into_iter().for_each(|cost| expected.dropped(cost));
    expected.stored(1_000);
    assert_exact(&rig, expected).await;

    // The same key of another account is another event. A record with only duplicates does not stop the shard.
    second.events(vec![keyed(AccountId::new(), "key 10", 5)]).await;
    second.events(batch([1, 10, 100])).await;
    second.events(vec![event(3)]).await;
    [5, 3].into_iter().for_each(|cost| expected.stored(cost));
    [1, 10, 100].into_iter().for_each(|cost| expected.dropped(cost));
    assert_exact(&rig, expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_used_after_the_window_counts_again() {
    let rig = Rig::start(1, &[("IDEMPOTENCY_WINDOW", "1")]).await;
    let (account, mut expected) = (AccountId::new(), Expected::default());
    let mut lane = rig.lane(0).await;
    lane.events(vec![keyed(account, "k", 1), keyed(account, "k", 2)]).await;
    expected.stored(1);
    expected.dropped(2);
    assert_exact(&rig, expected).await;
    // Repeat the event, each time after the previous one was decided, until the window of the first event is over.
    eventually("a later one is stored too", async || {
        let is_stored = rig.stored().await?.rows == 2;
        if !is_stored && dropped(&rig).await? == expected.dropped {
            lane.events(vec![keyed(account, "k", 100)]).await;
            expected.dropped(100);
        }
        is_stored.then_some(())
    })
    .await;
    // The last one was not dropped.
    expected.dropped.events -= 1;
    expected.dropped.units -= 100;
    assert_eq!(dropped(&rig).await, Some(expected.dropped));
    assert_eq!(rig.stored().await.map(|stored| stored.units), Some(101));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_does_not_count_dropped_events_as_missing() {
    let rig = Rig::start(1, &[]).await;
    let (account, mut expected) = (AccountId::new(), Expected::default());
    let mut lane = rig.lane(0).await;
    for round in 0..5 {
        lane.events(vec![keyed(account, &format!("{round}"), 10), event(1)])
            .await;
        lane.events(vec![event(1), keyed(account, &format!("{round}"), 100)])
            .await;
        lane.events(vec![keyed(account, &format!("{round}"), 1_000)]).await;
        [10, 1, 1].into_iter().for_each(|cost| expected.stored(cost));
        [100, 1_000].into_iter().for_each(|cost| expected.dropped(cost));
    }
    assert_exact(&rig, expected).await;
    assert!(rig.command("audit").await.status.success(), "nothing differs");

    // Delete dropped events, and the row that counts of another record together with one that was dropped for it.
    for delete in [
        "alter table usage_duplicates delete where idempotency_key != '3' settings mutations_sync = 2",
        "alter table usage_events delete where idempotency_key in ('1', '3') or cost_units = 1 and stream_seq % 2 = 0 \
         settings mutations_sync = 2",
    ] {
        rig.clickhouse.query(delete).execute().await.unwrap();
    }
    let audit = rig.command("audit").await;
    let error = String::from_utf8_lossy(&audit.stderr).into_owned();
    assert!(
        !audit.status.success() && error.contains("0 are still wrong"),
        "{error}"
    );
    assert_exact(&rig, expected).await;
    assert!(rig.command("audit").await.status.success(), "the repair is complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_manifests_and_a_raised_generation_store_no_duplicate_again() {
    let mut rig = Rig::start(1, &[]).await;
    let stop_within = Duration::from_secs(20);
    let (account, mut expected) = (AccountId::new(), Expected::default());
    let mut lane = rig.lane(2).await;
    let twice = |cost: i64| vec![keyed(account, "k", cost), keyed(account, "k", cost)];
    lane.events(vec![keyed(account, "k", 1), event(10)]).await;
    lane.events(twice(100)).await;
    lane.events(vec![event(1_000)]).await;
    // The last record has no row from which to restore how far the shard is stored.
    lane.events(twice(10_000)).await;
    [1, 10, 1_000].into_iter().for_each(|cost| expected.stored(cost));
    [100, 100, 10_000, 10_000]
        .into_iter()
        .for_each(|cost| expected.dropped(cost));
    assert_exact(&rig, expected).await;

    rig.ingestors[0].stop(stop_within).await.unwrap();
    let bucket = rig.bucket().await;
    bucket.purge(names::manifest_key(2)).await.unwrap();
    rig.ingestors[0].restart().await.unwrap();
    lane.events(vec![event(5), keyed(account, "k", 7)]).await;
    expected.stored(5);
    expected.dropped(7);
    assert_exact(&rig, expected).await;

    rig.ingestors[0].stop(stop_within).await.unwrap();
    assert!(rig.command("raise-generation").await.status.success());
    rig.ingestors[0].restart().await.unwrap();
    lane.events(vec![keyed(account, "k", 9), event(6)]).await;
    expected.stored(6);
    expected.dropped(9);
    assert_exact(&rig, expected).await;
}

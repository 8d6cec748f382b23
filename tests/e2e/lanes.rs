//! G1 and G2 for lanes: an event that was reported as stored is in the stream once, an event that was reported as not stored is
//! never in it, whatever happens to NATS.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{
        self,
        stream::{Config, DiscardPolicy, Stream},
    },
};
use devstack::{DataDir, Nats, NatsOptions, Servers};
use harness::{eventually, wait::PATIENCE};
use lane::{
    fence::fence,
    gathered::BatchLimits,
    link::Link,
    metrics::LaneMetrics,
    publisher::{NoUnits, Outgoing, PublishOutcome, Publisher, QueueLimits, Slot},
    run::{Run, RunLimits, Runs},
    subject::LaneSubject,
    task::LaneLimits,
};
use schema::{AccountId, EventId, KeyId, LaneRecord, LeaseId, SubscriptionId, UsageEvent, lane_record::Kind, names};
use service::{Health, Lifecycle, nats::NatsSettings};
use sqlx::PgPool;
use tokio::task::JoinSet;

const SHARDS: u16 = 4;

/// A run with its lanes, its own NATS and its own database.
struct Lanes {
    publisher: Publisher<NoUnits>,
    run: Run,
    runs: Runs,
    life: Lifecycle,
    stream: Stream,
    client: Client,
    nats: Nats,
    pool: PgPool,
    _servers: Arc<Servers>,
    _data: DataDir,
}

/// The outcome that was reported for each event.
type Outcomes = HashMap<EventId, PublishOutcome>;

impl Lanes {
    async fn open(stream_bytes: i64) -> Self {
        let servers = Servers::shared().await.unwrap();
        let data = DataDir::create().unwrap();
        let nats = Nats::start(&data.path().join("nats"), &NatsOptions::default())
            .await
            .unwrap();
        let database = format!("lanes_{:016x}", rand::random::<u64>());
        let pool = PgPool::connect(&servers.postgres.create_database(&database).await.unwrap())
            .await
            .unwrap();
        sqlx::migrate!("../schema/postgres").run(&pool).await.unwrap();

        let life = Lifecycle::new();
        let health = Health::new();
        let settings = NatsSettings {
            nats_url: nats.url().to_owned(),
            nats_user: None,
            nats_password: None,
        };
        let client = service::nats::connect(&settings, "lanes", &health).await.unwrap();
        let stream = jetstream::new(client.clone())
            .create_stream(usage_stream(stream_bytes))
            .await
            .unwrap();
        let link = Link::watch(&client, &life);
        let runs = Runs {
            name: "lanes".into(),
            pool: pool.clone(),
            client: client.clone(),
            link: link.clone(),
            health,
            life: life.clone(),
            metrics: LaneMetrics::default(),
            limits: limits(),
            spool: None,
        };
        let publisher = Publisher::new(link);
        let (run, lanes) = runs.begin().await.unwrap();
        publisher.install(lanes);
        Self {
            publisher,
            run,
            runs,
            life,
            stream,
            client,
            nats,
            pool,
            _servers: servers,
            _data: data,
        }
    }

    /// Starts writers that publish until `stop` and record their outcomes.
    fn load(&self, writers: usize) -> Load {
        let (counts, stop) = (Arc::new([const { AtomicU64::new(0) }; 3]), Lifecycle::new());
        let mut tasks = JoinSet::new();
        for _ in 0..writers {
            let (publisher, counts, stopping) = (self.publisher.clone(), counts.clone(), stop.token());
            tasks.spawn(async move {
                let mut mine = Outcomes::new();
                while !stopping.is_cancelled() {
                    let account = AccountId::new();
                    let Ok(slot) = publisher.reserve(account) else {
                        // A refused client waits before it retries.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    let event = event(account);
                    let outcome = slot.publish(vec![outgoing(&event)]).await;
                    counts[index(outcome)].fetch_add(1, Relaxed);
                    mine.insert(event.event_id, outcome);
                }
                mine
            });
        }
        Load { counts, stop, tasks }
    }

    /// Closes every lane and the run, then returns the records of the stream in order.
    async fn end(mut self) -> Vec<LaneRecord> {
        self.publisher.remove();
        self.run.lanes_closed().await.unwrap();
        self.run.close().await.unwrap();
        let state: String = sqlx::query_scalar("select state from gateway_runs")
            .fetch_one(&self.pool)
            .await
            .unwrap();
        assert_eq!(state, "closed");
        self.life.stop();
        self.life.finished(Duration::from_secs(10)).await.unwrap();
        records(&mut self.stream).await
    }
}

/// The running writers.
struct Load {
    counts: Arc<[AtomicU64; 3]>,
    stop: Lifecycle,
    tasks: JoinSet<Outcomes>,
}

impl Load {
    fn count(&self, outcome: PublishOutcome) -> u64 {
        self.counts[index(outcome)].load(Relaxed)
    }

    async fn stored_more(&self, more: u64) {
        let before = self.count(PublishOutcome::Stored);
        let enough = async || (self.count(PublishOutcome::Stored) >= before + more).then_some(());
        eventually("more events are stored", enough).await;
    }

    async fn end(self) -> Outcomes {
        self.stop.stop();
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

/// The ledger check of the lanes: the stream matches the reported outcomes, and no lane has a record out of order.
fn assert_outcomes_are_true(outcomes: &Outcomes, records: &[LaneRecord]) {
    let mut stored: HashMap<EventId, u32> = HashMap::new();
    for record in records {
        if let Kind::Batch { events, .. } = &record.kind {
            for event in events {
                *stored.entry(event.event_id).or_default() += 1;
            }
        }
    }
    for (event, outcome) in outcomes {
        let times = stored.remove(event).unwrap_or(0);
        match outcome {
            PublishOutcome::Stored => assert_eq!(times, 1, "{event} was reported as stored"),
            PublishOutcome::NotStored | PublishOutcome::RunEnded(_) => {
                assert_eq!(times, 0, "{event} was reported as not stored")
            }
            PublishOutcome::Unknown => assert!(times <= 1, "{event} is stored {times} times"),
        }
    }
    assert!(stored.is_empty(), "{} events that no client sent", stored.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_stored_as_reported_although_nats_is_killed_ten_times() {
    let mut lanes = Lanes::open(-1).await;
    let load = lanes.load(48);
    for _ in 0..10 {
        load.stored_more(500).await;
        lanes.nats.kill().await.unwrap();
        lanes.nats.restart().await.unwrap();
    }
    load.stored_more(500).await;
    let outcomes = load.end().await;
    let records = lanes.end().await;
    assert_outcomes_are_true(&outcomes, &records);
    let closed = records.iter().filter(|record| record.kind == Kind::Close).count();
    assert_eq!(closed, usize::from(SHARDS), "every lane ends with its close record");
    assert_eq!(
        records.iter().filter(|record| record.kind == Kind::Open).count(),
        usize::from(SHARDS)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nats_paused_events_are_unknown_at_the_deadline_and_new_ones_are_refused() {
    let mut lanes = Lanes::open(-1).await;
    let load = lanes.load(16);
    load.stored_more(100).await;
    lanes.nats.pause().unwrap();
    // The events in flight are unknown at their deadline. All others are refused before a unit would be spent.
    eventually("waiting requests get an unknown outcome", async || {
        (load.count(PublishOutcome::Unknown) > 0).then_some(())
    })
    .await;
    for _ in 0..64 {
        assert!(
            lanes.publisher.reserve(AccountId::new()).is_err(),
            "a stuck lane accepts nothing"
        );
    }
    lanes.nats.resume().unwrap();
    load.stored_more(100).await;
    let outcomes = load.end().await;
    assert_outcomes_are_true(&outcomes, &lanes.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_with_a_known_outcome_and_recovers() {
    let mut lanes = Lanes::open(600_000).await;
    let load = lanes.load(16);
    eventually("the stream is full", async || {
        (load.count(PublishOutcome::NotStored) > 200).then_some(())
    })
    .await;
    let mut config = usage_stream(-1);
    config.name = names::USAGE_STREAM.into();
    jetstream::new(lanes.client.clone())
        .update_stream(config)
        .await
        .unwrap();
    load.stored_more(200).await;
    let outcomes = load.end().await;
    assert!(
        !outcomes.values().any(|outcome| *outcome == PublishOutcome::Unknown),
        "a refusal has a known outcome"
    );
    lanes.stream = jetstream::new(lanes.client.clone())
        .get_stream(names::USAGE_STREAM)
        .await
        .unwrap();
    assert_outcomes_are_true(&outcomes, &lanes.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_run_is_given_up_and_its_events_get_their_true_outcome() {
    let mut lanes = Lanes::open(-1).await;
    let load = lanes.load(16);
    load.stored_more(100).await;
    let first = lanes.run.id;
    let stream = jetstream::new(lanes.client.clone())
        .get_stream_no_info(names::USAGE_STREAM)
        .await
        .unwrap();
    for shard in 0..SHARDS {
        let lane = LaneSubject::new(&lanes.client, &stream, shard, first);
        // At the same time, the run is alive and continues to write to the lane.
        eventually("the lane is fenced", async || {
            fence(&lane, Duration::from_secs(5)).await.ok()
        })
        .await;
    }
    lanes.run.fenced().await;
    lanes.publisher.remove();
    assert!(lanes.run.lanes_closed().await.is_err());

    let (run, open) = lanes.runs.begin().await.unwrap();
    assert_ne!(run.id, first);
    lanes.run = run;
    lanes.publisher.install(open);
    load.stored_more(100).await;
    sqlx::query("delete from gateway_runs where id = $1")
        .bind(first.0)
        .execute(&lanes.pool)
        .await
        .unwrap();
    let outcomes = load.end().await;
    let records = lanes.end().await;
    assert_outcomes_are_true(&outcomes, &records);
    let mut of_first = records.iter().filter(|record| record.run_id == first);
    for _ in 0..SHARDS {
        // No record of the first run follows the fence of its lane, because NATS refuses it.
        assert!(of_first.any(|record| matches!(record.kind, Kind::Fence { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_notices_that_its_run_is_being_ended() {
    let lanes = Lanes::open(-1).await;
    sqlx::query("update gateway_runs set state = 'fencing'")
        .execute(&lanes.pool)
        .await
        .unwrap();
    tokio::time::timeout(PATIENCE, lanes.run.fenced())
        .await
        .expect("the heartbeat finds no live row");
    lanes.life.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_too_large_is_not_stored_and_affects_no_other() {
    let lanes = Lanes::open(-1).await;
    let account = AccountId::new();
    let mut large = event(account);
    large.user_agent = "x".repeat(Slot::<NoUnits>::BYTES_MAX);
    let small = event(account);
    let outcome = async |event: &UsageEvent| {
        lanes
            .publisher
            .reserve(account)
            .unwrap()
            .publish(vec![outgoing(event)])
            .await
    };
    assert_eq!(outcome(&large).await, PublishOutcome::NotStored);
    assert_eq!(outcome(&small).await, PublishOutcome::Stored);
    let outcomes = Outcomes::from([
        (large.event_id, PublishOutcome::NotStored),
        (small.event_id, PublishOutcome::Stored),
    ]);
    assert_outcomes_are_true(&outcomes, &lanes.end().await);
}

/// The stream as an ingestor creates it.
fn usage_stream(max_bytes: i64) -> Config {
    let metadata = [
        (names::META_SHARDS, SHARDS.to_string()),
        (names::META_GENERATION, "1".to_owned()),
    ];
    Config {
        name: names::USAGE_STREAM.into(),
        subjects: vec![names::USAGE_SUBJECTS.into()],
        discard: DiscardPolicy::New,
        max_bytes,
        metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        ..Config::default()
    }
}

/// As in production, but with shorter timeouts.
fn limits() -> RunLimits {
    RunLimits {
        heartbeat_interval: Duration::from_millis(200),
        queue: QueueLimits {
            entries: 1024,
            bytes: 4 << 20,
        },
        lane: LaneLimits {
            batch: BatchLimits {
                events: 500,
                bytes: 512 << 10,
            },
            attempt_timeout: Duration::from_millis(800),
            stuck_after: Duration::from_millis(500),
            outcome_deadline: Duration::from_secs(2),
        },
    }
}

/// All records of the stream, in order.
async fn records(stream: &mut Stream) -> Vec<LaneRecord> {
    let state = stream.info().await.unwrap().state.clone();
    let mut records = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        records.push(LaneRecord::decode(&message.payload).unwrap());
    }
    records
}

fn index(outcome: PublishOutcome) -> usize {
    match outcome {
        PublishOutcome::Stored => 0,
        PublishOutcome::NotStored | PublishOutcome::RunEnded(_) => 1,
        PublishOutcome::Unknown => 2,
    }
}

fn outgoing(event: &UsageEvent) -> Outgoing<NoUnits> {
    Outgoing {
        event: event.encode(),
        units: None,
    }
}

fn event(account: AccountId) -> UsageEvent {
    UsageEvent {
        event_id: EventId::new(),
        account_id: account,
        key_id: KeyId::new(),
        subscription_id: SubscriptionId::NIL,
        period_start: 1_795_000_000,
        usage_type: "api_call".into(),
        cost_units: 1,
        endpoint: "/api/posts/search".into(),
        method: "GET".into(),
        status: 200,
        request_id: "r".into(),
        ip_address: "::1".parse().unwrap(),
        user_agent: "lanes".into(),
        time_ms: 1_795_000_000_000,
        lease_id: LeaseId::NIL,
        idempotency_key: String::new(),
        corrects: EventId::NIL,
    }
}

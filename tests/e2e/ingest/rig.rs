//! A NATS server and a database for each test, ingestors, and lanes as a gateway writes them.

mod copy;

use std::{
    ops::AddAssign,
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use async_nats::{
    HeaderMap,
    header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
    jetstream::{self, Context, kv::Store},
};
use clickhouse::Row;
use devstack::{ClickHouse, ClickHouseOptions, DataDir, Nats, NatsOptions, Servers, Service, ServiceOptions, ports};
use harness::eventually;
use schema::{
    AccountId, BatchId, EventId, KeyId, LaneRecord, LeaseId, Manifest, Period, RunId, SubscriptionId, UsageEvent,
    clock, lane_record::Kind, names,
};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(super) use self::copy::copy;

pub(super) const SHARDS: u16 = 4;

/// Fields are dropped in order: services before servers before data.
pub(super) struct Rig {
    pub ingestors: Vec<Service>,
    pub nats: Nats,
    /// Its own server, if the test kills it.
    pub own_clickhouse: Option<ClickHouse>,
    _shared: Option<Arc<Servers>>,
    pub clickhouse: clickhouse::Client,
    clickhouse_url: String,
    database: String,
    pub jetstream: Context,
    env: Vec<(&'static str, &'static str)>,
    pub data: DataDir,
}

/// The stored rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub(super) struct Stored {
    pub rows: u64,
    pub events: u64,
    pub units: i64,
}

/// The events written to the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub events: u64,
    pub units: i64,
}

/// One lane of one run.
pub(super) struct Lane {
    jetstream: Context,
    pub run: RunId,
    pub subject: String,
    pub last: u64,
    pub written: Written,
}

/// Lanes in all shards that write until they are stopped.
pub(super) struct Load {
    tasks: JoinSet<Written>,
    stop: DropGuard,
}

/// The server of the test's database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClickHouseIs {
    Shared,
    Own,
}

impl Rig {
    /// Starts this many ingestors, with extra settings in addition to those that make tests fast.
    pub(super) async fn start(ingestors: usize, env: &[(&'static str, &'static str)]) -> Self {
        Self::on(ClickHouseIs::Shared, ingestors, env).await
    }

    pub(super) async fn on(servers: ClickHouseIs, ingestors: usize, env: &[(&'static str, &'static str)]) -> Self {
        let data = DataDir::create().unwrap();
        let nats = Nats::start(&data.path().join("nats"), &NatsOptions::default())
            .await
            .unwrap();
        let mut rig = Self::without_ingestors(servers, data, nats, env).await;
        for _ in 0..ingestors {
            rig.add_ingestor().await;
        }
        rig
    }

    /// With this NATS server, and without ingestors.
    pub(super) async fn with_nats(nats: Nats, env: &[(&'static str, &'static str)]) -> Self {
        Self::without_ingestors(ClickHouseIs::Shared, DataDir::create().unwrap(), nats, env).await
    }

    async fn without_ingestors(
        servers: ClickHouseIs,
        data: DataDir,
        nats: Nats,
        env: &[(&'static str, &'static str)],
    ) -> Self {
        let (own_clickhouse, shared) = match servers {
            ClickHouseIs::Shared => (None, Some(Servers::shared().await.unwrap())),
            ClickHouseIs::Own => {
                let dir = data.path().join("clickhouse");
                (
                    Some(ClickHouse::start(&dir, &ClickHouseOptions::default()).await.unwrap()),
                    None,
                )
            }
        };
        let clickhouse_url = match (&own_clickhouse, &shared) {
            (Some(own), _) => own.url().to_owned(),
            (None, Some(shared)) => shared.clickhouse.url().to_owned(),
            (None, None) => unreachable!(),
        };
        let database = format!("ingest_{:016x}", rand::random::<u64>());
        let client = async_nats::ConnectOptions::new()
            .max_reconnects(None)
            .connect(nats.url())
            .await
            .unwrap();
        Self {
            ingestors: Vec::new(),
            jetstream: jetstream::new(client),
            clickhouse: clickhouse::Client::default()
                .with_url(&clickhouse_url)
                .with_database(&database),
            clickhouse_url,
            database,
            nats,
            own_clickhouse,
            _shared: shared,
            env: env.to_vec(),
            data,
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings: Vec<_> = [
            ("MEMBER_TTL", "1"),
            ("BATCH_AGE_MAX", "0.1"),
            ("LOG_FILTER", "info"),
            ("SHARDS", "4"),
        ]
        .into_iter()
        .chain(self.env.iter().copied())
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
        settings.push(("NATS_URL", self.nats.url().to_owned()));
        settings.push(("CLICKHOUSE_URL", self.clickhouse_url.clone()));
        settings.push(("CLICKHOUSE_DATABASE", self.database.clone()));
        settings
    }

    pub(super) async fn add_ingestor(&mut self) {
        self.add_ingestor_with(&[]).await;
    }

    /// Starts an ingestor with other settings.
    pub(super) async fn add_ingestor_with(&mut self, settings: &[(&str, &str)]) {
        let ingestor = Service::start(self.ingestor(settings)).await.unwrap();
        self.ingestors.push(ingestor);
    }

    /// Starts an ingestor, unless its servers are not ready.
    pub(super) async fn try_add_ingestor(&mut self) -> anyhow::Result<()> {
        let ingestor = Service::start(self.ingestor(&[])).await?;
        self.ingestors.push(ingestor);
        Ok(())
    }

    fn ingestor(&self, settings: &[(&str, &str)]) -> ServiceOptions {
        let (port, n) = (ports::free().unwrap(), self.ingestors.len() + 1);
        let name = format!("ingestor-{n}");
        let mut options = ServiceOptions::new("ingestor", &name, self.data.path().to_owned(), port)
            .env("ADMIN_ADDR", format!("127.0.0.1:{port}"));
        for (name, value) in self.settings() {
            options = options.env(name, value);
        }
        for (name, value) in settings {
            options = options.env(name, value);
        }
        options.exe = Some(Path::new(env!("CARGO_BIN_EXE_services")).to_owned());
        options
    }

    /// Runs a sub-command until it exits.
    pub(super) async fn command(&self, command: &str) -> Output {
        self.command_with(command, &[]).await
    }

    /// Runs a sub-command with other settings.
    pub(super) async fn command_with(&self, command: &str, settings: &[(&str, &str)]) -> Output {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_services"))
            .args(["service", "ingestor"])
            .args(command.split(' '))
            .envs(self.settings())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap()
    }

    pub(super) async fn lane(&self, shard: u16) -> Lane {
        let mut lane = self.unopened_lane(shard);
        let open = LaneRecord::open(lane.run).encode();
        lane.append(open).await;
        lane
    }

    fn unopened_lane(&self, shard: u16) -> Lane {
        let run = RunId::new();
        Lane {
            jetstream: self.jetstream.clone(),
            run,
            subject: names::lane(shard, run),
            last: 0,
            written: Written::default(),
        }
    }

    /// Lanes in every shard that write batches without a pause, also during outages.
    pub(super) async fn load(&self) -> Load {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for shard in 0..SHARDS {
            let (mut lane, stopping) = (self.lane(shard).await, stop.clone());
            tasks.spawn(async move {
                while !stopping.is_cancelled() {
                    // The sum of units shows whether an event is lost or doubled, and which cost it has.
                    let costs = [1, 10, 100, 1_000, -7];
                    lane.batch(&costs.repeat(1 + (lane.last % 20) as usize)).await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                lane.written
            });
        }
        Load {
            tasks,
            stop: stop.drop_guard(),
        }
    }

    pub(super) async fn bucket(&self) -> Store {
        self.jetstream.get_key_value(names::MANIFEST_BUCKET).await.unwrap()
    }

    pub(super) async fn manifests(&self) -> Vec<Manifest> {
        let bucket = self.bucket().await;
        let mut manifests = Vec::new();
        for shard in 0..SHARDS {
            let entry = bucket.get(names::manifest_key(shard)).await.unwrap();
            manifests.extend(entry.map(|bytes| Manifest::decode(&bytes).unwrap()));
        }
        manifests
    }

    /// The owners of all shards, once each has one.
    pub(super) async fn owners(&self) -> Option<Vec<String>> {
        let manifests = self.manifests().await;
        let owners: Vec<String> = manifests.into_iter().filter_map(|manifest| manifest.owner).collect();
        (owners.len() == usize::from(SHARDS)).then_some(owners)
    }

    /// Waits until an insert is running.
    pub(super) async fn until_inserting(&self) {
        eventually("a range is being inserted", async || {
            self.manifests()
                .await
                .iter()
                .any(|manifest| manifest.pending.is_some())
                .then_some(())
        })
        .await;
    }

    pub(super) async fn stored(&self) -> Option<Stored> {
        let sql = "select count() as rows, uniqExact(event_id) as events, sum(cost_units) as units from usage_events";
        self.clickhouse.query(sql).fetch_one().await.ok()
    }

    /// The ledger check: waits for the rows and the manifests, then asserts that each event is stored once.
    pub(super) async fn assert_stored(&self, written: Written) {
        let what = format!("{written:?} is stored");
        eventually(&what, async || {
            self.stored().await.filter(|stored| stored.rows >= written.events)
        })
        .await;
        eventually("nothing is pending", async || {
            self.manifests()
                .await
                .iter()
                .all(|manifest| manifest.pending.is_none())
                .then_some(())
        })
        .await;
        let exact = Stored {
            rows: written.events,
            events: written.events,
            units: written.units,
        };
        assert_eq!(self.stored().await, Some(exact));
    }

    /// `/readyz` of an ingestor: whether it is ready, and its report.
    pub(super) async fn ready(&self, n: usize) -> Option<(bool, String)> {
        let url = self.ingestors[n].admin_url();
        let host = url.strip_prefix("http://")?;
        let mut stream = TcpStream::connect(host).await.ok()?;
        let request = format!("GET /readyz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some((answer.starts_with("HTTP/1.1 200"), answer))
    }

    /// Waits until `/readyz` of the n-th ingestor reports that a shard waits, and returns the reason.
    pub(super) async fn until_alarm(&self, n: usize, why: &str) {
        eventually(&format!("an alarm: {why}"), async || {
            self.ready(n)
                .await
                .filter(|(ready, report)| !ready && report.contains(why))
        })
        .await;
    }

    pub(super) async fn until_ready(&self, n: usize) {
        eventually("the ingestor is ready", async || {
            self.ready(n).await.filter(|(ready, _)| *ready)
        })
        .await;
    }
}

impl Lane {
    /// Writes one event for each cost, as one batch.
    pub(super) async fn batch(&mut self, costs: &[i64]) {
        let events: Vec<UsageEvent> = costs.iter().map(|cost| event(*cost)).collect();
        self.written += Written {
            events: costs.len() as u64,
            units: costs.iter().sum(),
        };
        self.events(events).await;
    }

    pub(super) async fn events(&mut self, events: Vec<UsageEvent>) {
        let batch_id = BatchId::new();
        let kind = Kind::Batch { batch_id, events };
        let record = LaneRecord { run_id: self.run, kind };
        self.append(record.encode()).await;
    }

    pub(super) async fn close(&mut self) {
        let close = LaneRecord::close(self.run).encode();
        self.append(close).await;
    }

    /// Appends a record once, also during outages.
    pub(super) async fn append(&mut self, payload: Vec<u8>) {
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.last.to_string().as_str());
            let sent = self
                .jetstream
                .publish_with_headers(self.subject.clone(), headers, payload.clone().into())
                .await;
            let acked = match sent {
                Ok(ack) => ack.await.ok(),
                Err(_) => None,
            };
            let acked = match acked {
                Some(ack) => Some(ack.sequence),
                // The outcome is unknown: read the last record of the lane.
                None => {
                    let stream = self.jetstream.get_stream_no_info(names::USAGE_STREAM).await.unwrap();
                    let last = stream.get_last_raw_message_by_subject(&self.subject).await.ok();
                    last.filter(|last| last.payload == payload).map(|last| last.sequence)
                }
            };
            match acked {
                Some(seq) => {
                    self.last = seq;
                    return;
                }
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Load {
    /// Stops the load and returns the written events.
    pub(super) async fn stop(self) -> Written {
        drop(self.stop);
        let mut all = Written::default();
        for written in self.tasks.join_all().await {
            all += written;
        }
        all
    }
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.units += other.units;
    }
}

pub(super) fn event(cost_units: i64) -> UsageEvent {
    UsageEvent {
        event_id: EventId::new(),
        account_id: AccountId::new(),
        key_id: KeyId::new(),
        subscription_id: SubscriptionId::NIL,
        period_start: Period::calendar_month(clock::now_s()).start,
        usage_type: "api_call".into(),
        cost_units,
        endpoint: "/api/posts/search".into(),
        method: "GET".into(),
        status: 200,
        request_id: "request".into(),
        ip_address: "::ffff:192.0.2.7".parse().unwrap(),
        user_agent: "a test".into(),
        time_ms: clock::now_ms(),
        lease_id: LeaseId::NIL,
        idempotency_key: String::new(),
        corrects: EventId::NIL,
    }
}

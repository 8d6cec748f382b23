//! Tests of the real servers: they work, they keep acknowledged data after kill -9, and they end with their parent.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use devstack::ports;
use devstack::process::Program;
use devstack::{
    ClickHouse, ClickHouseOptions, DataDir, Nats, NatsOptions, Postgres, PostgresOptions, Servers, Service,
    ServiceOptions,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sqlx::Connection;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(clickhouse::Row, Serialize, Deserialize, Debug, PartialEq)]
struct Sale {
    account: String,
    units: i64,
}

fn sale(account: &str, units: i64) -> Sale {
    Sale {
        account: account.to_owned(),
        units,
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Clients need a moment to find a server again that was just killed.
async fn retried<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(mut attempt: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() > end => panic!("not within {PATIENCE:?}: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn sales_table(client: &clickhouse::Client) {
    let table = "create table sales (account String, units Int64, constraint positive check units > 0)
                 engine = MergeTree order by account settings fsync_after_insert = 1, fsync_part_directory = 1";
    client.query(table).execute().await.unwrap();
}

async fn insert(client: &clickhouse::Client, sales: &[Sale]) -> clickhouse::error::Result<()> {
    let mut insert = client.insert::<Sale>("sales").await?;
    for sale in sales {
        insert.write(sale).await?;
    }
    insert.end().await
}

async fn total(client: &clickhouse::Client) -> i64 {
    client
        .query("select sum(units) from sales")
        .fetch_one::<i64>()
        .await
        .unwrap()
}

async fn stream(url: &str) -> jetstream::stream::Stream {
    let client = async_nats::connect(url).await.unwrap();
    let config = jetstream::stream::Config {
        name: "TEST".to_owned(),
        subjects: vec!["test.>".to_owned()],
        ..Default::default()
    };
    jetstream::new(client).get_or_create_stream(config).await.unwrap()
}

async fn publish(url: &str, subject: &'static str) {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    context.publish(subject, "x".into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn shared_servers_start_together_and_work() {
    let servers = Servers::shared().await.unwrap();

    stream(servers.nats.url()).await;
    publish(servers.nats.url(), "test.shared").await;

    let database = servers.postgres.create_database("shared_test").await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&database).await.unwrap();
    let (name, fsync): (String, String) = sqlx::query_as("select current_database(), current_setting('fsync')")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!((name.as_str(), fsync.as_str()), ("shared_test", "on"));

    let client = servers.clickhouse.create_database("shared_test").await.unwrap();
    sales_table(&client).await;
    insert(&client, &[sale("a", 1), sale("b", 10)]).await.unwrap();
    assert_eq!(total(&client).await, 11);
}

#[tokio::test]
async fn clickhouse_answers_as_the_real_server_does() {
    let servers = Servers::shared().await.unwrap();
    let client = servers.clickhouse.create_database("answers").await.unwrap();
    sales_table(&client).await;

    for compression in [clickhouse::Compression::Lz4, clickhouse::Compression::None] {
        let client = client.clone().with_compression(compression);
        insert(&client, &[sale("it's", 5)]).await.unwrap();
        let found = client.query("select ?fields from sales where account = {account:String} limit 1");
        assert_eq!(
            found.param("account", "it's").fetch_one::<Sale>().await.unwrap(),
            sale("it's", 5)
        );
    }

    let violated = insert(&client, &[sale("a", 1), sale("a", 0)]).await.unwrap_err();
    assert!(violated.to_string().contains("VIOLATED_CONSTRAINT"), "{violated}");
    assert_eq!(total(&client).await, 10, "a refused insert stores none of its rows");
    let missing = client.query("select * from nowhere").execute().await.unwrap_err();
    assert!(missing.to_string().contains("UNKNOWN_TABLE"), "{missing}");
}

/// The engine itself ends inline data at the first blank line and runs the rest as SQL.
#[tokio::test]
async fn data_never_run_as_sql() {
    let servers = Servers::shared().await.unwrap();
    let client = servers.clickhouse.create_database("inline").await.unwrap();
    client
        .query("create table notes (note String) engine = MergeTree order by note")
        .execute()
        .await
        .unwrap();
    let count = async || {
        client
            .query("select count() from notes")
            .fetch_one::<u64>()
            .await
            .unwrap()
    };

    let rows = "first\n\ndrop table inline.notes\n";
    let mut insert = client.insert_formatted_with("insert into notes format TabSeparated");
    insert.send(rows.into()).await.unwrap();
    insert.end().await.unwrap();
    assert_eq!(count().await, 3);
    client
        .query("insert into notes values ('a\n\n'), \n\n ('drop table inline.notes')")
        .execute()
        .await
        .unwrap();
    assert_eq!(count().await, 5);

    for two in [
        "select 1; drop table inline.notes",
        "select ';' /* ; */ ; drop table inline.notes",
    ] {
        let refused = client.query(two).execute().await.unwrap_err();
        assert!(refused.to_string().contains("Multi-statements"), "{refused}");
    }
    client
        .query("select ';', 1 -- ; one\n; -- the end")
        .execute()
        .await
        .unwrap();
    let mut insert = client.insert_formatted_with("insert into notes select note from input('note String') format CSV");
    insert.send("lost".into()).await.unwrap();
    let refused = insert.end().await.unwrap_err();
    assert!(
        refused.to_string().contains("NOT_IMPLEMENTED"),
        "an insert that would store nothing: {refused}"
    );
    assert_eq!(count().await, 5);
}

#[tokio::test]
async fn nats_keeps_acknowledged_messages_through_kill() {
    let data = DataDir::create().unwrap();
    let mut nats = Nats::start(&data.path().join("nats"), &NatsOptions::default())
        .await
        .unwrap();
    stream(nats.url()).await;
    for round in 1..=3 {
        publish(nats.url(), "test.kill").await;
        nats.kill().await.unwrap();
        assert!(!nats.process().unwrap().is_running());
        nats.restart().await.unwrap();
        assert_eq!(stream(nats.url()).await.get_info().await.unwrap().state.messages, round);
    }
    assert!(nats.stop().await.unwrap().success());
}

#[tokio::test]
async fn paused_nats_is_silent_until_it_is_resumed() {
    let data = DataDir::create().unwrap();
    let mut nats = Nats::start(&data.path().join("nats"), &NatsOptions::default())
        .await
        .unwrap();
    stream(nats.url()).await;
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    nats.pause().unwrap();
    let mut acknowledged = Box::pin(context.publish("test.pause", "x".into()).await.unwrap().into_future());
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut acknowledged)
            .await
            .is_err(),
        "it was not paused"
    );
    nats.resume().unwrap();
    acknowledged.await.unwrap();
}

#[tokio::test]
async fn postgres_keeps_commits_through_kill_and_pause() {
    let data = DataDir::create().unwrap();
    let mut postgres = Postgres::start(&data.path().join("postgres"), &PostgresOptions::default())
        .await
        .unwrap();
    let url = postgres.create_database("kept").await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query("create table numbers (n bigint)")
        .execute(&mut connection)
        .await
        .unwrap();
    for round in 1..=3_i64 {
        sqlx::query("insert into numbers values ($1)")
            .bind(round)
            .execute(&mut connection)
            .await
            .unwrap();
        postgres.kill().await.unwrap();
        postgres.restart().await.unwrap();
        connection = retried(|| sqlx::PgConnection::connect(&url)).await;
        let count: i64 = sqlx::query_scalar("select count(*) from numbers")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(count, round);
    }
    postgres.pause().unwrap();
    let query = sqlx::query_scalar::<_, i64>("select count(*) from numbers");
    let mut answer = Box::pin(query.fetch_one(&mut connection));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut answer)
            .await
            .is_err(),
        "a backend was not paused"
    );
    postgres.resume().unwrap();
    assert_eq!(answer.await.unwrap(), 3);
    assert!(postgres.stop().await.unwrap().success());
}

#[tokio::test]
async fn clickhouse_keeps_inserts_through_kill() {
    let data = DataDir::create().unwrap();
    let dir = data.path().join("clickhouse");
    let mut clickhouse = ClickHouse::start(&dir, &ClickHouseOptions::default()).await.unwrap();
    let client = clickhouse.create_database("kept").await.unwrap();
    sales_table(&client).await;
    for round in 1..=3 {
        insert(&client, &[sale("a", 1), sale("b", 10)]).await.unwrap();
        clickhouse.kill().await.unwrap();
        clickhouse.restart().await.unwrap();
        let client = clickhouse.client().with_database("kept");
        assert_eq!(total(&client).await, 11 * round);
    }
    assert!(clickhouse.stop().await.unwrap().success());
}

#[tokio::test]
async fn failed_start_shows_the_log() {
    let data = DataDir::create().unwrap();
    let options = NatsOptions {
        extra_config: "no_such_option: 1".to_owned(),
        ..Default::default()
    };
    let error = Nats::start(&data.path().join("nats"), &options).await.unwrap_err();
    assert!(format!("{error:#}").contains("no_such_option"), "{error:#}");
}

#[tokio::test]
async fn service_that_ends_instead_of_getting_ready_shows_its_log() {
    let data = DataDir::create().unwrap();
    let mut options = ServiceOptions::new(
        "no-such-service",
        "test-1",
        data.path().to_path_buf(),
        ports::free().unwrap(),
    );
    options.exe = Some(env!("CARGO_BIN_EXE_devstack").into());
    let error = Service::start(options).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("no service is called \"no-such-service\""),
        "{error:#}"
    );
}

#[tokio::test]
async fn process_that_ignores_its_signal_is_killed_and_reported() {
    let data = DataDir::create().unwrap();
    let mut program = Program::new("stubborn", "/bin/sh".into(), data.path(), data.path().join("log"));
    program.args = ["-c", "trap '' TERM; echo trapped; while :; do sleep 1; done"]
        .map(Into::into)
        .into();
    let mut process = program.start().unwrap();
    process
        .wait_until(PATIENCE, async |process| process.has_logged("trapped"))
        .await
        .unwrap();
    let error = process.stop(Duration::from_millis(100)).await.unwrap_err();
    assert!(format!("{error:#}").contains("ignored SIGTERM"), "{error:#}");
    assert!(!process.is_running());
}

/// `devstack servers` as a child process that the test ends.
struct Devstack {
    child: std::process::Child,
    ports: Vec<u16>,
    data: PathBuf,
}

impl Devstack {
    fn start() -> Self {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_devstack"));
        for variable in ["NATS_URL", "DATABASE_URL", "CLICKHOUSE_URL"] {
            command.env_remove(variable);
        }
        let mut child = command
            .args(["servers", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let port = |url: &serde_json::Value| {
            let url: http::Uri = url.as_str().unwrap().parse().unwrap();
            url.port_u16().unwrap()
        };
        let ports: Vec<u16> = said["urls"].as_object().unwrap().values().map(port).collect();
        let data = PathBuf::from(said["data"].as_str().unwrap());
        assert_eq!(ports.len(), 3);
        assert!(data.is_dir() && ports.iter().all(|&port| is_open(port)));
        Self { child, ports, data }
    }

    async fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        let status = tokio::task::spawn_blocking(move || self.child.wait())
            .await
            .unwrap()
            .unwrap();
        eventually("ports closed", || !self.ports.iter().any(|&port| is_open(port))).await;
        eventually("data removed", || !self.data.exists()).await;
        status.code()
    }
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[tokio::test]
async fn nothing_outlives_kill_of_the_parent() {
    let devstack = tokio::task::spawn_blocking(Devstack::start).await.unwrap();
    assert_eq!(devstack.end(Signal::SIGKILL).await, None);
}

#[tokio::test]
async fn nothing_outlives_an_orderly_end() {
    let devstack = tokio::task::spawn_blocking(Devstack::start).await.unwrap();
    assert_eq!(devstack.end(Signal::SIGINT).await, Some(130));
}

//! The tables in ClickHouse: migrations, and sums that stay exact through retries, kills, closed days and retention.

mod days;
mod rig;

use std::time::Duration;

use devstack::{ClickHouse, ClickHouseOptions, DataDir, Servers};
use ingestor::migrate::{self, MigrateSettings};
use schema::{
    AccountId, Period,
    clickhouse::{FILES, Layout},
};
use time::ext::NumericalDuration;

use self::rig::{Sums, Tables, batch, insert, name, sums};

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_and_repeated_migrations_apply_once_and_are_recorded() {
    let servers = Servers::shared().await.unwrap();
    let client = servers.clickhouse.client().with_database(name());
    let settings = MigrateSettings::default();
    let (a, b, c) = tokio::join!(
        migrate::run(&client, &settings),
        migrate::run(&client, &settings),
        migrate::run(&client, &settings)
    );
    a.and(b).and(c).unwrap();
    migrate::run(&client, &settings).await.unwrap();
    let query = "select distinct file from schema_migrations order by file";
    let recorded = client.query(query).fetch_all::<String>().await.unwrap();
    assert_eq!(recorded, FILES.iter().map(|file| file.name).collect::<Vec<_>>());

    let changed = "insert into schema_migrations (file, checksum) values ('02_usage_daily', 'of another day')";
    client.query(changed).execute().await.unwrap();
    let refused = migrate::run(&client, &settings).await.unwrap_err().to_string();
    assert!(
        refused.contains("02_usage_daily.sql was changed after it was applied"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_file_is_named() {
    let servers = Servers::shared().await.unwrap();
    let client = servers
        .clickhouse
        .client()
        .with_database(name())
        .with_setting("max_query_size", "2000");
    let error = migrate::run(&client, &MigrateSettings::default()).await.unwrap_err();
    assert!(
        format!("{error:#}").starts_with("applying 01_usage_events.sql: bad response"),
        "{error:#}"
    );
}

/// The test server has no cluster, so these statements are parsed and not run.
#[tokio::test(flavor = "multi_thread")]
async fn statements_for_a_cluster_parse() {
    let servers = Servers::shared().await.unwrap();
    let layout = Layout {
        cluster: Some("main".into()),
    };
    for file in FILES {
        let sql = file.render(&layout);
        let ast = servers
            .clickhouse
            .client()
            .query_raw(&format!("explain ast {sql}"))
            .fetch_all::<String>()
            .await;
        let ast = ast.unwrap_or_else(|error| panic!("{}: {error}", file.name)).join("\n");
        assert_eq!(
            ast.contains("ReplicatedMergeTree"),
            sql.contains("engine ="),
            "{}: {ast}",
            file.name
        );
    }
    let client = layout
        .client_settings()
        .iter()
        .fold(servers.clickhouse.client(), |client, (name, value)| {
            client.with_setting(*name, *value)
        });
    assert_eq!(
        client.query("select 1").fetch_one::<u8>().await.unwrap(),
        1,
        "a setting is unknown"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_insert_is_counted_once() {
    let tables = Tables::new().await;
    let (account, now) = (AccountId::new(), schema::clock::now());
    let events = batch(account, 8, now, &[1, 10, 100, 1000]);
    for _ in 0..3 {
        insert(&tables.client, "USAGE/1/3/8-8", &events).await.unwrap();
    }
    let once = Sums { units: 1111, events: 4 };
    let of_account = format!("account_id = '{account}'");
    assert_eq!(tables.rows(&of_account).await, once);
    assert_eq!(tables.usage(&of_account).await, once);

    // The case for a replay: there are no rows although the token was sent, so the insert gets another token.
    let lost = batch(account, 9, now, &[-11]);
    insert(&tables.client, "USAGE/1/3/9-9#2", &lost).await.unwrap();
    insert(&tables.client, "USAGE/1/3/9-9#2", &lost).await.unwrap();
    assert_eq!(tables.usage(&of_account).await, Sums { units: 1100, events: 5 });
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_and_positions_are_read_from_projections() {
    let tables = Tables::new().await;
    let (account, ts) = (AccountId::new(), schema::clock::now());
    insert(&tables.client, "a", &batch(account, 8, ts, &[1, 10, 100, 1000]))
        .await
        .unwrap();
    let period = schema::period::instant(Period::calendar_month(ts.unix_timestamp()).start).unix_timestamp();
    for query in [
        format!("select toInt64(sum(cost_units)) from usage where account_id = '{account}' and period_start = {period}"),
        format!("select toInt64(sum(cost_units)) from usage where period_start = {period} group by account_id"),
        format!(
            "select toInt64(sum(cost_units)) from usage_events
             where account_id = '{account}' and period_start = {period} group by usage_type"
        ),
        "select toInt64(1107 + uniqExact(stream_seq, idx)) from usage_events
         where generation = 1 and shard = 3 and stream_seq between 8 and 8"
            .to_owned(),
        "select toInt64(1107 + count()) from usage_events where generation = 1 and shard = 3 and stream_seq between 8 and 8"
            .to_owned(),
        "select toInt64(1103 + max(stream_seq)) from usage_events where generation = 1 and shard = 3".to_owned(),
    ] {
        let forced = tables.client.query_raw(&query).with_setting("force_optimize_projection", "1");
        let answer = forced.fetch_one::<i64>().await.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(answer, 1111, "{query}");
    }
}

/// Inserts like the ingestor: insert, verify, send missing rows again. First with the same token, then with another one,
/// because the server may remember a token without its rows.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_during_an_insert_loses_nothing_and_doubles_nothing() {
    const KILLS: u64 = 10;
    const ROWS: u64 = 20_000;
    let data = DataDir::create().unwrap();
    let mut server = ClickHouse::start(data.path(), &ClickHouseOptions::default())
        .await
        .unwrap();
    let client = server.client().with_database("killed");
    migrate::run(&client, &MigrateSettings::default()).await.unwrap();
    let (account, ts) = (AccountId::new(), schema::clock::now());
    let costs: Vec<i64> = (0..ROWS as i64).collect();

    for seq in 1..=KILLS {
        let token = format!("k/{seq}");
        let mut events = batch(account, seq, ts - 30.days(), &costs);
        events.iter_mut().for_each(|event| event.ingested_at = ts);
        let kill = async {
            let after = rand::random_range(0..80_000);
            tokio::time::sleep(Duration::from_micros(after)).await;
            server.kill().await.unwrap();
            after
        };
        let (sent, after) = tokio::join!(insert(&client, &token, &events), kill);
        server.restart().await.unwrap();

        // The old connections are dead, so this creates a new client.
        let client = server.client().with_database("killed");
        let there = || async {
            sums(&client, "usage_events", "count()", &format!("stream_seq = {seq}"))
                .await
                .events
        };
        let mut rows = there().await;
        println!(
            "killed after {after} us: acknowledged {}, {rows} rows are there",
            sent.is_ok()
        );
        assert!(sent.is_err() || rows == ROWS, "acknowledged, but there are {rows} rows");
        for suffix in ["", "#2"] {
            assert!(rows == 0 || rows == ROWS, "a part of a block: {rows} rows");
            if rows == 0 {
                insert(&client, &format!("{token}{suffix}"), &events).await.unwrap();
                rows = there().await;
            }
        }
        assert_eq!(rows, ROWS);
        // A client that does not know of the insert sends it again.
        insert(&client, &token, &events).await.unwrap();
    }

    let client = server.client().with_database("killed");
    let expected = Sums {
        units: (KILLS * ROWS * (ROWS - 1) / 2) as i64,
        events: KILLS * ROWS,
    };
    for projections in ["0", "1"] {
        let client = client.clone().with_setting("optimize_use_projections", projections);
        assert_eq!(sums(&client, "usage_events", "count()", "1").await, expected);
        assert_eq!(sums(&client, "usage", "sum(events)", "1").await, expected);
    }
}

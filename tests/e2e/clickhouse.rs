//! ClickHouse's tables: migrations, sums that stay exact through retries, kills, closed days and retention.

use std::{sync::Arc, time::Duration};

use billing_worker::retention;
use clickhouse::{Client, Row};
use devstack::{ClickHouse, ClickHouseOptions, DataDir, Servers};
use ingestor::{
    migrate::{self, MigrateSettings},
    rollup,
};
use schema::{
    AccountId, Catalogue, Manifest, Period,
    clickhouse::{FILES, Layout},
    manifest::Pending,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use time::{OffsetDateTime, ext::NumericalDuration, macros::datetime};
use uuid::Uuid;

/// What the ingestor inserts, as far as sums and positions need it.
#[derive(Clone, Row, Serialize)]
struct Event {
    generation: u32,
    shard: u16,
    stream_seq: u64,
    idx: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    account_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    lease_id: Uuid,
    #[serde(with = "clickhouse::serde::time::datetime")]
    period_start: OffsetDateTime,
    usage_type: String,
    cost_units: i64,
    #[serde(with = "clickhouse::serde::time::datetime64::millis")]
    ts: OffsetDateTime,
    #[serde(with = "clickhouse::serde::time::datetime64::millis")]
    ingested_at: OffsetDateTime,
}

#[derive(Debug, PartialEq, Row, Deserialize)]
struct Sums {
    units: i64,
    events: u64,
}

/// A database of its own in the shared server.
struct Tables {
    servers: Arc<Servers>,
    client: Client,
}

impl Tables {
    async fn new() -> Self {
        let servers = Servers::shared().await.unwrap();
        let client = servers.clickhouse.client().with_database(name());
        migrate::run(&client, &MigrateSettings::default()).await.unwrap();
        Self { servers, client }
    }

    /// By the view that everybody sums.
    async fn usage(&self, condition: &str) -> Sums {
        sums(&self.client, "usage", "sum(events)", condition).await
    }

    async fn rows(&self, condition: &str) -> Sums {
        sums(&self.client, "usage_events", "count()", condition).await
    }
}

fn name() -> String {
    format!("test_{:016x}", rand::random::<u64>())
}

async fn sums(client: &Client, table: &str, events: &str, condition: &str) -> Sums {
    let query = format!("select sum(cost_units) as units, {events} as events from {table} where {condition}");
    client.query_raw(&query).fetch_one().await.unwrap()
}

/// Events of one account with these costs, a minute apart from `ts` on, in one batch.
fn batch(account: AccountId, stream_seq: u64, ts: OffsetDateTime, costs: &[i64]) -> Vec<Event> {
    let period_start = Period::calendar_month(ts.unix_timestamp()).start;
    let event = |(idx, cost_units): (usize, &i64)| Event {
        generation: 1,
        shard: 3,
        stream_seq,
        idx: idx as u32,
        event_id: Uuid::new_v4(),
        account_id: account.0,
        lease_id: Uuid::from_u128(u128::from(stream_seq)),
        period_start: schema::period::instant(period_start),
        usage_type: "api_call".into(),
        cost_units: *cost_units,
        ts: ts + (idx as i64).minutes(),
        ingested_at: ts + 1.seconds(),
    };
    costs.iter().enumerate().map(event).collect()
}

async fn insert(client: &Client, token: &str, events: &[Event]) -> clickhouse::error::Result<()> {
    // The columns that it leaves out have no default of their own, which validation asks for.
    let client = client.clone().with_validation(false);
    let mut insert = client
        .insert::<Event>("usage_events")
        .await?
        .with_setting("insert_deduplication_token", token)
        .with_setting("async_insert", "0");
    for event in events {
        insert.write(event).await?;
    }
    insert.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_apply_together_and_again_and_are_recorded() {
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

/// The engine at hand has no cluster, so the forms are parsed and not run.
#[tokio::test(flavor = "multi_thread")]
async fn the_forms_for_a_cluster_parse() {
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

    // What a replay is for: nothing is there although the token was sent, so it comes under a token of its own.
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

/// The ingestor's way: insert, ask what is there, and send again what is not: under the same token, then under another,
/// because the engine remembers a token before the rows are there.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_mid_insert_loses_nothing_and_doubles_nothing() {
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

        // Connections of before are dead: a new client.
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
        assert!(sent.is_err() || rows == ROWS, "acknowledged, and {rows} rows are there");
        for suffix in ["", "#2"] {
            assert!(rows == 0 || rows == ROWS, "a part of a block: {rows} rows");
            if rows == 0 {
                insert(&client, &format!("{token}{suffix}"), &events).await.unwrap();
                rows = there().await;
            }
        }
        assert_eq!(rows, ROWS);
        // A client that never heard of it sends it once more.
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

fn sealed(at: OffsetDateTime) -> Manifest {
    Manifest {
        pending: Some(Pending {
            first: 1,
            last: 1,
            rows: 1,
            checksum: 0,
            dropped: Vec::new(),
            sealed_at_ms: schema::clock::unix_ms(at),
        }),
        ..Manifest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_day_counts_once_however_often_it_was_copied() {
    let tables = Tables::new().await;
    let (account, now) = (AccountId::new(), datetime!(2026-11-23 12:00 UTC));
    for (seq, days_ago) in [(1, 20), (2, 19), (3, 17), (4, 1)] {
        let events = batch(account, seq, now - i64::from(days_ago).days(), &[1, 10, 100, 1000]);
        insert(&tables.client, &format!("{seq}"), &events).await.unwrap();
    }
    let all = Sums {
        units: 4444,
        events: 16,
    };
    assert_eq!(tables.usage("1").await, all);

    // An attempt that died after it had copied, and one that has copied half.
    let leftover =
        "insert into usage_daily (bill_day, close_id, account_id, usage_type, period_start, cost_units, events)
                    select bill_day, generateUUIDv4(), account_id, usage_type, period_start, 7, 7 from usage_events";
    tables.client.query(leftover).execute().await.unwrap();

    // A range that is sealed and not verified holds the days open that it may reach.
    let held = rollup::close_days(&tables.client, [sealed(now - 15.days())], now)
        .await
        .unwrap();
    assert_eq!(held, []);
    let (a, b) = tokio::join!(
        rollup::close_days(&tables.client, [sealed(now), Manifest::default()], now),
        rollup::close_days(&tables.client, [], now)
    );
    let closed = a.unwrap();
    assert_eq!(closed, b.unwrap());
    assert_eq!(closed.first().unwrap().to_string(), "2026-11-03");
    assert_eq!(closed.last().unwrap().to_string(), "2026-11-16");
    assert_eq!(tables.usage("1").await, all);
    assert_eq!(
        rollup::close_days(&tables.client, [], now).await.unwrap(),
        [],
        "closed twice"
    );
    assert_eq!(tables.usage(&format!("account_id = '{account}'")).await, all);

    // One that was paused before its record, while the rows were deleted: the first record counts.
    for sql in [
        "delete from usage_events where bill_day = '2026-11-03'",
        "insert into usage_closed_days select toDate('2026-11-03'), generateUUIDv4(), 0, 0, now64(6)",
    ] {
        tables.client.query(sql).execute().await.unwrap();
    }
    assert_eq!(tables.usage("1").await, all);

    // A row that comes to a closed day is in no sum: that is not left unsaid.
    insert(&tables.client, "late", &batch(account, 5, now - 19.days(), &[1]))
        .await
        .unwrap();
    let error = rollup::close_days(&tables.client, [], now)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("2026-11-04"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes_by_the_current_plan_and_every_sum_stays() {
    let tables = Tables::new().await;
    let postgres = tables.servers.postgres.create_database(&name()).await.unwrap();
    let db = PgPool::connect(&postgres).await.unwrap();
    billing_worker::database::migrate(&db).await.unwrap();
    // A year is long to close day by day: here Pro keeps 90 days.
    let plans = include_str!("../../schema/plans.toml").replace("retention_days = 365", "retention_days = 90");
    let catalogue = Catalogue::parse(&plans).unwrap();
    let now = schema::clock::now();

    // Everybody has used the same, on each of 120 days; one account is not in PostgreSQL.
    let accounts: Vec<AccountId> = (0..3).map(|_| AccountId::new()).collect();
    for (n, account) in accounts.iter().enumerate() {
        sqlx::query("insert into accounts (id, name, email) values ($1, 'n', $2)")
            .bind(account.0)
            .bind(format!("{n}@example.org"))
            .execute(&db)
            .await
            .unwrap();
    }
    let unknown = AccountId::new();
    let mut seq = 0;
    let mut events = Vec::new();
    for days_ago in 1..=120 {
        for account in accounts.iter().chain([&unknown]) {
            seq += 1;
            events.extend(batch(*account, seq, now - i64::from(days_ago).days(), &[1, 10]));
        }
    }
    insert(&tables.client, "all", &events).await.unwrap();
    for (account, plan) in [(accounts[1], "pro"), (accounts[2], "enterprise")] {
        sqlx::query("insert into plans (id, name, price_cents, position) values ($1, $1, 0, 1)")
            .bind(plan)
            .execute(&db)
            .await
            .unwrap();
        sqlx::query(
            "insert into subscriptions (id, account_id, plan_id, status, period_start, period_end, billing_anchor)
             values ($1, $2, $3, 'active', now() - interval '1 day', now() + interval '29 days', now() - interval '1 day')",
        )
        .bind(Uuid::new_v4())
        .bind(account.0)
        .bind(plan)
        .execute(&db)
        .await
        .unwrap();
    }

    let all = Sums {
        units: 4 * 120 * 11,
        events: 4 * 120 * 2,
    };
    let retained = retention::step(&db, &tables.client, &catalogue, now).await.unwrap();
    assert_eq!(retained.rows, 0, "no day is closed, so nothing may go");
    while !rollup::close_days(&tables.client, [], now).await.unwrap().is_empty() {}
    let retained = retention::step(&db, &tables.client, &catalogue, now).await.unwrap();
    assert_eq!(retained.rows, 0, "days that were closed just now may still be read");
    let later = now + 7.hours();
    assert_eq!(tables.usage("1").await, all);

    let retained = retention::step(&db, &tables.client, &catalogue, later).await.unwrap();
    assert!(!retained.more && retained.accounts == 2, "{retained:?}");
    assert_eq!(tables.usage("1").await, all);
    let mut deleted = 0;
    for (account, days) in [
        (accounts[0], 29..=62),
        (accounts[1], 89..=91),
        (accounts[2], 120..=120),
        (unknown, 120..=120),
    ] {
        let of_account = format!("account_id = '{account}'");
        assert_eq!(
            tables.usage(&of_account).await,
            Sums {
                units: 1320,
                events: 240
            }
        );
        let rows = tables.rows(&of_account).await.events;
        assert!(days.contains(&(rows / 2)), "{rows} rows are kept");
        deleted += 240 - rows;
    }
    assert_eq!(retained.rows, deleted);
    let month = Period::calendar_month(Period::calendar_month(later.unix_timestamp()).start - 1).start;
    let needed = tables
        .rows(&format!("account_id = '{}' and period_start >= {month}", accounts[0]))
        .await;
    let used = tables
        .usage(&format!("account_id = '{}' and period_start >= {month}", accounts[0]))
        .await;
    assert_eq!(
        needed, used,
        "rows of the current and the previous period are all there"
    );
    let again = retention::step(&db, &tables.client, &catalogue, later).await.unwrap();
    assert_eq!(again.rows, 0);
}

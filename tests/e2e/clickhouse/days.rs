//! Closing days and deleting rows keeps every sum.

use billing_worker::retention;
use ingestor::upkeep::close_days;
use schema::{AccountId, Catalogue, Manifest, Period, manifest::Pending};
use sqlx::PgPool;
use time::{OffsetDateTime, ext::NumericalDuration, macros::datetime};
use uuid::Uuid;

use super::rig::{Sums, Tables, batch, insert, name};

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
async fn a_closed_day_counts_once_however_often_it_is_copied() {
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

    // An attempt that died after its copy, and one that died in the middle of it.
    let leftover =
        "insert into usage_daily (bill_day, close_id, account_id, usage_type, period_start, cost_units, events)
                    select bill_day, generateUUIDv4(), account_id, usage_type, period_start, 7, 7 from usage_events";
    tables.client.query(leftover).execute().await.unwrap();

    // A sealed range that is not verified keeps the days open that its events can fall on.
    let held = close_days::close_days(&tables.client, [sealed(now - 15.days())], now)
        .await
        .unwrap();
    assert_eq!(held, []);
    let (a, b) = tokio::join!(
        close_days::close_days(&tables.client, [sealed(now), Manifest::default()], now),
        close_days::close_days(&tables.client, [], now)
    );
    let closed = a.unwrap();
    assert_eq!(closed, b.unwrap());
    assert_eq!(closed.first().unwrap().to_string(), "2026-11-03");
    assert_eq!(closed.last().unwrap().to_string(), "2026-11-16");
    assert_eq!(tables.usage("1").await, all);
    assert_eq!(
        close_days::close_days(&tables.client, [], now).await.unwrap(),
        [],
        "closed twice"
    );
    assert_eq!(tables.usage(&format!("account_id = '{account}'")).await, all);

    // An attempt that was paused before it recorded the day, while the rows were deleted: the first record counts.
    for sql in [
        "delete from usage_events where bill_day = '2026-11-03'",
        "insert into usage_closed_days select toDate('2026-11-03'), generateUUIDv4(), 0, 0, now64(6)",
    ] {
        tables.client.query(sql).execute().await.unwrap();
    }
    assert_eq!(tables.usage("1").await, all);

    // A new row on a closed day is in no sum: the check reports it.
    insert(&tables.client, "late", &batch(account, 5, now - 19.days(), &[1]))
        .await
        .unwrap();
    let error = close_days::close_days(&tables.client, [], now)
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
    // Closing a whole year takes long, so Pro keeps 90 days here.
    let plans = include_str!("../../../schema/plans.toml").replace("retention_days = 365", "retention_days = 90");
    let catalogue = Catalogue::parse(&plans).unwrap();
    let now = schema::clock::now();

    // Every account used the same units on each of 120 days. One account is not in PostgreSQL.
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
    let retained = retention::step::step(&db, &tables.client, &catalogue, now)
        .await
        .unwrap();
    assert_eq!(retained.rows, 0, "no day is closed, so no row may be deleted");
    while !close_days::close_days(&tables.client, [], now)
        .await
        .unwrap()
        .is_empty()
    {}
    let retained = retention::step::step(&db, &tables.client, &catalogue, now)
        .await
        .unwrap();
    assert_eq!(retained.rows, 0, "days that have just been closed may still be read");
    let later = now + 7.hours();
    assert_eq!(tables.usage("1").await, all);

    let retained = retention::step::step(&db, &tables.client, &catalogue, later)
        .await
        .unwrap();
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
    let again = retention::step::step(&db, &tables.client, &catalogue, later)
        .await
        .unwrap();
    assert_eq!(again.rows, 0);
}

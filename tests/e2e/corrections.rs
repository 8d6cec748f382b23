//! Corrections lower usage once, in ClickHouse and in the pool, even after crashes.

mod books;
mod deaths;
mod refused;
mod segments;

use harness::{StackOptions, eventually};
use schema::EventId;
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use self::books::{Books, void};
use crate::SERVICES;

#[tokio::test(flavor = "multi_thread")]
async fn corrected_units_leave_the_sums_and_turn_a_refusal_into_an_admission() {
    let books = Books::open(StackOptions::default()).await;
    books
        .stack
        .admin
        .set_limit(books.ada.account_id, "api_call", 10)
        .await
        .unwrap();
    let events = books.spend("api_call", &[6, 3, 1]).await;
    assert_eq!(books.client.spend("api_call", 1).await.unwrap().status, 429);

    // Six events are voided, three are lowered by one unit.
    let request = books.request(json!([void(&events[0]), { "event_id": events[1], "cost_units": 2 }]));
    let made = books.correct(&request).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json().unwrap()["delta_units"], -7);
    // The response was lost, so the request is repeated.
    let again = books.correct(&request).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.json().unwrap()["delta_units"], -7);

    eventually("units that came back are admitted", async || {
        (books.client.spend("api_call", 7).await.unwrap().status == 200).then_some(())
    })
    .await;
    assert_eq!(books.client.spend("api_call", 1).await.unwrap().status, 429);

    // A second correction of an event lowers the units that the first one left.
    let rest = books.request(json!([void(&events[1])]));
    assert_eq!(books.correct(&rest).await.ok().unwrap()["delta_units"], -2);
    books.until_published().await;
    let trail = books
        .read(&format!("corrections?account={}&limit=2", books.ada.account_id))
        .await;
    assert_eq!(trail["items"].as_array().unwrap().len(), 2);
    assert!(trail["items"].as_array().unwrap().iter().all(|item| {
        item["pool_returned_units"].as_i64() == item["delta_units"].as_i64().map(|units| -units)
            && item["requested_by"] == "eve"
    }));
    let next = trail["next"].as_str().unwrap();
    let more = books.read(&format!("corrections?after={next}")).await;
    assert_eq!(more["items"].as_array().unwrap().len(), 1);
    let audit = books.read(&format!("audit?account={}", books.ada.account_id)).await;
    let corrections = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "usage.correct");
    let corrections: Vec<_> = corrections
        .map(|entry| (&entry["actor_name"], &entry["details"]["delta_units"]))
        .collect();
    assert_eq!(corrections, [(&json!("eve"), &json!(-7)), (&json!("eve"), &json!(-2))]);
    books.close(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_corrections_of_one_request_are_made_once_each_by_concurrent_clients() {
    let books = Books::open(StackOptions::default()).await;
    let mut events = Vec::new();
    for _ in 0..10 {
        let batch: Vec<_> = (0..100)
            .map(|_| json!({ "usage_type": "api_call", "cost_units": 2 }))
            .collect();
        let answer = books
            .client
            .post("/v1/usage/batch", &json!({ "events": batch }))
            .await
            .unwrap();
        for result in answer.ok().unwrap()["results"].as_array().unwrap() {
            events.push(result["event_id"].as_str().unwrap().parse::<EventId>().unwrap());
        }
    }
    books.stack.assert_stored(books.ada.account_id, 1_000, 2_000).await;
    let targets: Vec<_> = events
        .iter()
        .map(|event| json!({ "event_id": event, "cost_units": 1 }))
        .collect();
    let request = books.request(json!(targets));
    let answers = futures_util::future::join_all((0..8).map(|_| books.correct(&request))).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(
        statuses.iter().filter(|status| **status == 201).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|status| **status == 200).count(),
        7,
        "{statuses:?}"
    );

    let one_more = events.iter().chain([&EventId::new()]).map(void).collect::<Vec<_>>();
    let refused = books.correct(&books.request(json!(one_more))).await;
    assert_eq!(
        (refused.status.as_u16(), refused.json().unwrap()["error"].clone()),
        (400, json!("invalid_request"))
    );
    books.close(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_from_no_pool_are_returned_to_no_pool() {
    // Exports are billed past the limit, by a subscription in Stripe: nothing is refused, and no lease is taken.
    let data = devstack::DataDir::create().unwrap();
    let plans = include_str!("../../schema/plans.toml").replace(
        "usage.export = { limit = 100 }",
        "usage.export = { limit = 100, mode = \"overage\", unit_price_micros = 1_000 }",
    );
    let file = data.path().join("plans.toml");
    std::fs::write(&file, plans).unwrap();
    let env = vec![("PLANS_FILE", file.to_str().unwrap().to_owned())];
    let books = Books::open(StackOptions {
        gateway_env: env.clone(),
        billing_env: env,
        ..StackOptions::default()
    })
    .await;
    sqlx::query("update subscriptions set stripe_subscription_id = 'sub_1'")
        .execute(&books.stack.pool)
        .await
        .unwrap();
    let exports = books.spend("export", &[4]).await;
    let calls = books.spend("api_call", &[3]).await;
    // A pool that did not grant these units must not get them back, because it would then admit past the limit.
    sqlx::query(
        "insert into quota_pool select account_id, 'export', period_start, period_end, 100, 50 from quota_pool",
    )
    .execute(&books.stack.pool)
    .await
    .unwrap();
    let made = books
        .correct(&books.request(json!([void(&exports[0]), void(&calls[0])])))
        .await;
    assert_eq!(made.ok().unwrap()["delta_units"], -7);
    books.until_published().await;
    let export: i64 = sqlx::query_scalar("select granted_units from quota_pool where usage_type = 'export'")
        .fetch_one(&books.stack.pool)
        .await
        .unwrap();
    assert_eq!(export, 50);
    sqlx::query("update quota_pool set granted_units = 0 where usage_type = 'export'")
        .execute(&books.stack.pool)
        .await
        .unwrap();
    books.close(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_correct_and_list_as_the_api_does() {
    let books = Books::open(StackOptions::default()).await;
    let events = books.spend("api_call", &[5, 7]).await;
    let command = async |args: &str| -> Value {
        let mut command = Command::new(SERVICES);
        let endpoints = &books.stack.endpoints;
        command
            .args(["service", "billing-worker"])
            .args(args.split(' '))
            .arg("--json")
            .env("NATS_URL", &endpoints.nats_url)
            .env("DATABASE_URL", &endpoints.database_url)
            .env("CLICKHOUSE_URL", &endpoints.clickhouse_url)
            .env("CLICKHOUSE_DATABASE", &endpoints.clickhouse_database);
        let output = command.kill_on_drop(true).output().await.unwrap();
        assert!(
            output.status.success(),
            "{args}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let id = Uuid::now_v7();
    let create = format!(
        "corrections create ada@example.com {} {} --cost-units 1 --reason outage --by eve --correction-id {id}",
        events[0], events[1]
    );
    for _ in 0..2 {
        let made = command(&create).await;
        assert_eq!(
            (&made["delta_units"], made["events"].as_array().unwrap().len()),
            (&json!(-10), 2)
        );
    }
    let made = command(&format!(
        "corrections create ada@example.com {} --void --reason outage",
        events[0]
    ))
    .await;
    assert_eq!(made["delta_units"], -1);
    assert!(!made["events"][0]["requested_by"].as_str().unwrap().is_empty());
    books.until_published().await;
    assert_eq!(
        command("corrections list --account ada@example.com").await,
        books.read("corrections").await
    );
    assert_eq!(command("audit list").await, books.read("audit").await);
    books.close(1).await;
}

//! Runs as operators see them, and giving up a run after its spool is lost.

use std::process::Output;

use devstack::http::Http;
use harness::{Stack, eventually};
use schema::{AccountId, LeaseId};
use serde_json::{Value, json};
use tokio::process::Command;

use super::rig::{Left, dead_run, options, runs, until_settled};
use crate::SERVICES;

async fn command(stack: &Stack, args: &str) -> Output {
    let endpoints = &stack.endpoints;
    let mut command = Command::new(SERVICES);
    command
        .args(["service", "billing-worker"])
        .args(args.split(' '))
        .env("NATS_URL", &endpoints.nats_url)
        .env("DATABASE_URL", &endpoints.database_url);
    command.kill_on_drop(true).output().await.unwrap()
}

async fn json_of(stack: &Stack, args: &str) -> Value {
    let output = command(stack, args).await;
    assert!(
        output.status.success(),
        "{args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn lease(units: i64, spent: i64) -> Left {
    Left {
        lease: LeaseId::new(),
        account: AccountId::new(),
        units,
        spent,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_command_ends_a_run_that_spools() {
    let stack = Stack::start(SERVICES, options(1)).await.unwrap();
    let (http, admin) = (Http::default(), format!("{}/admin/runs", stack.billing.admin_url()));
    let spooling = dead_run(&stack, vec![lease(10, 4)]);
    sqlx::query("update gateway_runs set state = 'spooling' where id = $1")
        .bind(spooling.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    // It is silent for as long as two other runs together, which are found dead one by one.
    for _ in 0..2 {
        let dead = dead_run(&stack, vec![lease(10, 4)]);
        until_settled(&stack.pool, dead.0).await;
    }
    assert_eq!(runs(&stack.pool, "spooling").await, [spooling.0]);

    let listed = json_of(&stack, "runs list --json").await;
    let listed = listed["items"].as_array().unwrap();
    assert_eq!(listed.len(), 2, "the gateway's run and the one that spools: {listed:?}");
    let view = listed.iter().find(|run| run["id"] == spooling.to_string()).unwrap();
    assert_eq!(
        (
            &view["state"],
            &view["live_leases"],
            &view["held_units"],
            &view["gateway"],
            &view["kind"]
        ),
        (
            &json!("spooling"),
            &json!(1),
            &json!(10),
            &json!("dying"),
            &json!("gateway")
        )
    );
    assert!(view["heartbeat_age_s"].as_i64().unwrap() >= 3, "{view}");
    let text = command(&stack, "runs list --state spooling").await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("kind") && text.contains("name"), "{text}");
    assert!(text.contains(&spooling.to_string()), "{text}");

    // The command needs a confirmation.
    let refused = command(&stack, &format!("runs give-up {spooling}")).await;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--spool-is-lost: "));
    for (arguments, says) in [
        ("runs give-up", "Usage: billing-worker runs give-up <RUN>"),
        (
            "limits set ada@example.com api_call -5",
            "must be an integer from 0 to 999,999,999,999,999, got -5",
        ),
    ] {
        let wrong = command(&stack, arguments).await;
        let printed = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(
            !wrong.status.success() && printed.contains(says),
            "{arguments}: {printed}"
        );
    }
    let give_up = format!("{admin}/{spooling}/give-up");
    let refused = http.post(&give_up, &stack.admin_token, &json!({})).await.unwrap();
    assert_eq!(
        (refused.status.as_u16(), refused.json().unwrap()["error"].clone()),
        (400, json!("invalid_request"))
    );
    assert_eq!(runs(&stack.pool, "spooling").await, [spooling.0]);

    let given_up = json_of(&stack, &format!("runs give-up {spooling} --spool-is-lost --json")).await;
    assert_eq!(given_up["state"], "fencing");
    until_settled(&stack.pool, spooling.0).await;
    let (state, returned): (String, i64) =
        sqlx::query_as("select state, returned_units from quota_leases where run_id = $1")
            .bind(spooling.0)
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    assert_eq!((state.as_str(), returned), ("settled", 6));

    let confirmed = json!({ "spool_is_lost": true });
    let again = http.post(&give_up, &stack.admin_token, &confirmed).await.unwrap();
    assert_eq!(again.status, 409);
    let unknown = format!("{admin}/{}/give-up", uuid::Uuid::now_v7());
    let unknown = http.post(&unknown, &stack.admin_token, &confirmed).await.unwrap();
    assert_eq!(unknown.status, 404);
    let audit = format!("{}/admin/audit", stack.billing.admin_url());
    let audit = http.get(&audit, &stack.admin_token).await.unwrap().ok().unwrap();
    let entry = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["action"] == "run.give_up")
        .cloned();
    assert_eq!(entry.unwrap()["subject"], spooling.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_gives_up_a_run_and_lists_runs_by_state() {
    let stack = Stack::start(SERVICES, options(1)).await.unwrap();
    let (http, admin) = (Http::default(), format!("{}/admin/runs", stack.billing.admin_url()));
    let spooling = dead_run(&stack, vec![lease(3, 3)]);
    sqlx::query("update gateway_runs set state = 'spooling' where id = $1")
        .bind(spooling.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    let confirmed = json!({ "spool_is_lost": true });
    let given_up = http
        .post(&format!("{admin}/{spooling}/give-up"), &stack.admin_token, &confirmed)
        .await;
    assert_eq!(given_up.unwrap().ok().unwrap()["state"], "fencing");
    eventually("it is listed as settled", async || {
        let settled = http
            .get(&format!("{admin}?state=settled"), &stack.admin_token)
            .await
            .ok()?
            .ok()
            .ok()?;
        (settled["items"][0]["id"] == spooling.to_string()).then_some(())
    })
    .await;
    let wrong = http
        .get(&format!("{admin}?state=gone"), &stack.admin_token)
        .await
        .unwrap();
    assert_eq!(wrong.status, 400);
}

//! Usage notices: an account receives one signed notice per threshold, even if its endpoint or a part of our system fails.

mod delivery;
mod endpoint;
mod receiver;
mod rig;

use async_nats::ConnectOptions;
use devstack::ports;
use futures_util::StreamExt;
use harness::{Client, Stack, StackOptions, eventually};
use schema::names;
use serde_json::{Value, json};
use tokio::process::Command;

use self::{
    receiver::Receiver,
    rig::{HTTP, PRIVATE, QUICK, another_worker, compared, log, notices, set, stack, stack_with},
};
use crate::{
    SERVICES,
    billing::worker::{output, write},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_send_one_notice_per_threshold_and_period() {
    let (stack, ada) = stack().await;
    let another = another_worker(&stack, &[QUICK, HTTP, PRIVATE]).await;
    let receiver = Receiver::start(&[]).await;
    let secret = set(&stack, ada.account_id, &receiver.url()).await;
    stack.admin.set_limit(ada.account_id, "api_call", 50).await.unwrap();
    let listener = ConnectOptions::with_user_and_password("notices".into(), devstack::nats::password("notices"));
    let nats = listener.connect(stack.nats.url()).await.unwrap();
    let mut published = nats.subscribe(names::NOTICES).await.unwrap();
    nats.flush().await.unwrap();
    let client = Client::new(stack.gateway(0), &ada);
    let spend = async |units: i64| client.spend("api_call", units).await.unwrap().ok().unwrap();

    for _ in 0..39 {
        spend(1).await;
    }
    stack.assert_stored(ada.account_id, 39, 39).await;
    compared(&stack.billing).await;
    assert!(receiver.received().is_empty(), "39 of 50 are not 80 %");

    spend(1).await;
    let notice = receiver.nth(1).await;
    assert_eq!(
        (notice.path.as_str(), notice.signatures(&secret)),
        ("/usage", (1, true))
    );
    let body = notice.json();
    assert_eq!(body["type"], "usage.threshold_reached");
    let data = &body["data"];
    assert_eq!(data["account_id"], ada.account_id.to_string());
    for (field, expected) in [
        ("usage_type", json!("api_call")),
        ("threshold_percent", json!(80)),
        ("current_usage", json!(40)),
        ("limit", json!(50)),
    ] {
        assert_eq!(data[field], expected, "{field}");
    }
    let (start, end) = (
        data["period_start"].as_str().unwrap(),
        data["period_end"].as_str().unwrap(),
    );
    assert!(start < body["timestamp"].as_str().unwrap() && start < end, "{body}");

    spend(10).await;
    let notice = receiver.nth(2).await;
    assert!(notice.signatures(&secret).1);
    assert_eq!(notice.json()["data"]["threshold_percent"], 100);
    assert_eq!(notice.json()["data"]["current_usage"], 50);

    // 80 % of the new limit is not another notice of this period.
    stack.admin.set_limit(ada.account_id, "api_call", 100).await.unwrap();
    eventually("the raised limit holds", async || {
        (client.spend("api_call", 50).await.unwrap().status == 200).then_some(())
    })
    .await;
    stack.assert_stored(ada.account_id, 42, 100).await;
    for worker in [&stack.billing, &another] {
        compared(worker).await;
    }
    assert_eq!(receiver.received().len(), 2);
    let listed = notices(&stack, ada.account_id, "both are delivered", |listed| {
        listed.iter().all(|notice| notice["state"] == "delivered")
    })
    .await;
    assert_eq!(listed.len(), 2, "{listed:?}");

    for notice in receiver.received() {
        let message = published.next().await.unwrap();
        assert_eq!(message.subject.as_str(), names::notices(ada.account_id));
        assert_eq!(message.payload, notice.body.as_bytes());
        assert_eq!(
            message.headers.unwrap().get("Nats-Msg-Id").unwrap().as_str(),
            notice.id()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_held_by_a_gateway_are_not_usage() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let client = Client::new(stack.gateway(0), &ada);
    client.spend("export", 79).await.unwrap().ok().unwrap();
    stack.assert_stored(ada.account_id, 1, 79).await;
    let held = "update quota_pool set granted_units = limit_units where account_id = $1";
    sqlx::query(held)
        .bind(ada.account_id.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    compared(&stack.billing).await;
    assert!(receiver.received().is_empty(), "79 of 100 are spent, 21 are held");
    // The current limit counts: 79 of 90 is above 80 % and below 100 %.
    stack.admin.set_limit(ada.account_id, "export", 90).await.unwrap();
    let data = receiver.nth(1).await.json()["data"].clone();
    assert_eq!(
        (&data["threshold_percent"], &data["current_usage"], &data["limit"]),
        (&json!(80), &json!(79), &json!(90))
    );
    compared(&stack.billing).await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_billed_above_its_limit_sends_notices_too() {
    let catalogue = include_str!("../../schema/plans.toml").replace(
        "usage.export = { limit = 100 }",
        "usage.export = { limit = 10, mode = \"overage\", unit_price_micros = 1_000 }",
    );
    let dir = devstack::DataDir::create().unwrap();
    let plans = write(dir.path(), "plans.toml", &catalogue);
    let env = |settings: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        settings.chain([("PLANS_FILE", plans.clone())]).collect()
    };
    let options = StackOptions {
        billing_env: env(&[QUICK, HTTP, PRIVATE, ("NOTICE_THRESHOLDS", "100,150")]),
        gateway_env: env(&[]),
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    let receiver = Receiver::start(&[]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    // Somebody pays: otherwise what is included would be the limit.
    sqlx::query("update subscriptions set stripe_subscription_id = 'sub_1'")
        .execute(&stack.pool)
        .await
        .unwrap();
    let client = Client::new(stack.gateway(0), &ada);
    for (units, percent, usage) in [(9, None, 9), (3, Some(100), 12), (4, Some(150), 16)] {
        client.spend("export", units).await.unwrap().ok().unwrap();
        if let Some(percent) = percent {
            let notice = receiver.nth(if percent == 100 { 1 } else { 2 }).await.json();
            assert_eq!(
                (
                    &notice["data"]["threshold_percent"],
                    &notice["data"]["current_usage"],
                    &notice["data"]["limit"]
                ),
                (&json!(percent), &json!(usage), &json!(10))
            );
        }
        compared(&stack.billing).await;
    }
    assert_eq!(receiver.received().len(), 2);
    stack.assert_stored(ada.account_id, 3, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_clickhouse_is_logged_once_and_sends_no_notice() {
    let (stack, ada) = stack_with(&[("NOTICE_INTERVAL", "3600"), HTTP, PRIVATE]).await;
    let receiver = Receiver::start(&[]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    Client::new(stack.gateway(0), &ada)
        .spend("export", 100)
        .await
        .unwrap()
        .ok()
        .unwrap();
    stack.assert_stored(ada.account_id, 1, 100).await;
    let nobody = format!("http://127.0.0.1:{}", ports::free().unwrap());
    let blind = another_worker(&stack, &[QUICK, HTTP, PRIVATE, ("CLICKHOUSE_URL", &nobody)]).await;
    eventually("comparisons are skipped", async || {
        let skipped = blind.metric::<u64>("billing_notices_comparisons_skipped_total");
        (skipped.await.unwrap() >= 3).then_some(())
    })
    .await;
    let log = log(stack.data.path(), "another-worker");
    assert_eq!(log.matches("cannot compare usage with limits").count(), 1);
    assert!(receiver.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_do_the_same() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[]).await;
    let account = ada.account_id.to_string();
    let run = async |args: &[&str]| {
        let mut command = Command::new(SERVICES);
        command
            .args(["service", "billing-worker", "notices", "--json"])
            .args(args)
            .env("DATABASE_URL", &stack.endpoints.database_url)
            .env(HTTP.0, HTTP.1)
            .env(PRIVATE.0, PRIVATE.1);
        let output = output(command).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains("whsec_"), "{args:?}: a secret in the log");
        let printed: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        printed.filter(|_| output.status.success()).ok_or(errors)
    };
    let set = run(&["set", &account, &receiver.url()]).await.unwrap();
    let test = run(&["test", "ada@example.com"]).await.unwrap();
    let notice = receiver.nth(1).await;
    assert_eq!(notice.id(), test["id"]);
    assert!(notice.signatures(set["secret"].as_str().unwrap()).1);
    let rotated = run(&["rotate", &account, "--overlap-hours", "1"]).await.unwrap();
    run(&["replay", notice.id()]).await.unwrap();
    let replayed = receiver.nth(2).await;
    assert_eq!(replayed.id(), notice.id());
    assert_eq!(replayed.signatures(rotated["secret"].as_str().unwrap()), (2, true));
    let listed = run(&["list", &account]).await.unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(run(&["show", &account]).await.unwrap()["url"], receiver.url());
    run(&["remove", &account]).await.unwrap();
    assert!(
        run(&["show", &account])
            .await
            .unwrap_err()
            .contains("has no notice endpoint")
    );
}

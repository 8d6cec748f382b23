//! The fake Stripe as a program, called over HTTP.

use std::process::Stdio;
use std::time::Duration;

use devstack::http::Http;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn program_says_how_to_reach_it_and_is_controlled_over_http() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_devstack"));
    command.args(["stripe", "--json", "--webhook-secret", "whsec_chosen"]);
    let mut program = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let text = |name: &str| said[name].as_str().unwrap().to_owned();
    assert_eq!(text("webhook_secret"), "whsec_chosen");
    let (http, url) = (Http::default(), text("url"));

    let customers = http
        .get(&format!("{url}/v1/customers"), &text("api_key"))
        .await
        .unwrap();
    assert_eq!(customers.ok().unwrap()["data"], json!([]));
    let fault = json!({ "kind": "server_error", "path": "/v1/customers", "count": 1, "moment": "after" });
    http.post(&format!("{url}/_double/faults"), "", &fault)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let struck = http
        .get(&format!("{url}/v1/customers"), &text("api_key"))
        .await
        .unwrap();
    assert_eq!(struck.status, 500);
    let now = async || {
        http.get(&format!("{url}/_double/clock"), "")
            .await
            .unwrap()
            .json()
            .unwrap()["now"]
            .as_i64()
            .unwrap()
    };
    let before = now().await;
    http.post(&format!("{url}/_double/clock"), "", &json!({ "by": 86_400 }))
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert!(now().await >= before + 86_400);
    let requests = http
        .get(&format!("{url}/_double/requests"), "")
        .await
        .unwrap()
        .json()
        .unwrap();
    let statuses: Vec<_> = requests
        .as_array()
        .unwrap()
        .iter()
        .map(|request| &request["status"])
        .collect();
    assert_eq!(statuses, [200, 500]);
    assert_eq!(
        http.get(&format!("{url}/_double/violations"), "")
            .await
            .unwrap()
            .json()
            .unwrap(),
        json!([])
    );
}

//! `demo --replay` as a program. Every line of a log is sent, or counted by reason. No line ends the replay.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(180);

#[tokio::test]
async fn odd_lines_are_replayed_or_counted_under_a_reason() {
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay/odd.log");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_devstack"));
    command
        .args(["demo", "--exit", "--json", "--replay"])
        .arg(&log)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(WITHIN, command.output()).await.unwrap().unwrap();
    let (out, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{log}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["sent"], 27, "{report}");
    let accounted = ["accepted", "failed", "unknown", "unanswered"].map(|name| report[name].as_i64().unwrap());
    let refused: i64 = report["refused"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_i64().unwrap())
        .sum();
    assert_eq!(accounted.iter().sum::<i64>() + refused, 27, "{report}");
    assert_eq!(
        report["refused"],
        json!({ "invalid_request": 2, "status 400": 1 }),
        "{report}"
    );
    assert_eq!(report["unreadable"], 13);
    assert_eq!(
        report["skipped"],
        json!({
            "CONNECT asks a proxy for a tunnel": 1,
            "empty line": 1,
            "no HTTP request": 2,
            "no status from 200 to 999": 2,
            "not in combined log format, or cut off before the request": 1,
            "the client is not an IP address": 1,
            "the gateway answers this path itself": 1,
            "the target has characters that a URL cannot have": 1,
            "the target is not a path": 2,
            "the user agent has characters that a header cannot have": 1,
        })
    );
}

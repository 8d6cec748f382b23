//! Gateways on machines with a wrong clock.

use std::path::{Path, PathBuf};

use devstack::{DataDir, http::Http};
use harness::{Client, Stack, StackOptions, eventually, wrong_clock::WRONG_CLOCK_FILE};
use schema::{AccountId, clock};

use crate::SERVICES;

const DAY_MS: i64 = 86_400_000;
/// 2300-01-01: ClickHouse cannot hold it.
const YEAR_2300_MS: i64 = 10_413_792_000_000;

/// A system with one gateway, whose clock a file sets.
struct Machine {
    stack: Stack,
    file: PathBuf,
    _data: DataDir,
}

impl Machine {
    async fn start(wrong_by_ms: i64) -> Self {
        let data = DataDir::create().unwrap();
        let file = data.path().join("clock");
        set(&file, wrong_by_ms);
        let options = StackOptions {
            gateway_env: vec![
                (WRONG_CLOCK_FILE, file.display().to_string()),
                ("HEARTBEAT_INTERVAL", "0.2".into()),
            ],
            ..StackOptions::default()
        };
        Self {
            stack: Stack::start(SERVICES, options).await.unwrap(),
            file,
            _data: data,
        }
    }

    async fn ahead_s(&self, server: &str) -> f64 {
        let name = format!("gateway_clock_offset_seconds{{server=\"{server}\"}}");
        self.stack.gateways[0].service.metric(&name).await.unwrap()
    }

    async fn ready(&self) -> (bool, String) {
        let url = format!("{}/readyz", self.stack.gateways[0].service.admin_url());
        let answer = Http::default().get(&url, "").await.unwrap();
        (answer.status == 200, String::from_utf8(answer.body.to_vec()).unwrap())
    }

    /// All events of the account have a time between the two, and one period.
    async fn assert_times(&self, account: AccountId, from_ms: i64, to_ms: i64) {
        let query = "select toUnixTimestamp64Milli(min(ts)), toUnixTimestamp64Milli(max(ts)), uniqExact(period_start)
                     from usage_events where account_id = ?";
        let of_account = self.stack.clickhouse.query(query).bind(account.0.to_string());
        let (first, last, periods): (i64, i64, u64) = of_account.fetch_one().await.unwrap();
        // Clocks are compared to a few milliseconds.
        let is_within = from_ms - 1_000 <= first && last <= to_ms + 1_000;
        assert!(is_within, "{from_ms} {first} {last} {to_ms}");
        assert_eq!(periods, 1);
    }
}

fn set(file: &Path, wrong_by_ms: i64) {
    std::fs::write(file, wrong_by_ms.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_clock_is_a_little_wrong_stamps_the_right_time() {
    for wrong_by_ms in [20_000, -20_000] {
        let machine = Machine::start(wrong_by_ms).await;
        let ada = machine.stack.admin.customer("ada", "free").await.unwrap();
        let client = Client::new(machine.stack.gateway(0), &ada);
        let began_ms = clock::now_ms();
        for _ in 0..3 {
            assert_eq!(client.spend("api_call", 1).await.unwrap().status, 200);
        }
        let ended_ms = clock::now_ms();
        machine.stack.assert_stored(ada.account_id, 3, 3).await;
        machine.assert_times(ada.account_id, began_ms, ended_ms).await;
        for server in ["postgres", "nats"] {
            let ahead_s = machine.ahead_s(server).await;
            assert!(
                (ahead_s * 1_000.0 - wrong_by_ms as f64).abs() < 1_000.0,
                "{server}: {ahead_s}"
            );
        }
        assert!(machine.ready().await.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_clock_is_wrong_admits_nothing_until_it_is_right() {
    let machine = Machine::start(0).await;
    let ada = machine.stack.admin.customer("ada", "enterprise").await.unwrap();
    let client = Client::new(machine.stack.gateway(0), &ada);
    let (began_ms, mut accepted) = (clock::now_ms(), 0);
    for wrong_by_ms in [2 * DAY_MS, -2 * DAY_MS, 32_000, YEAR_2300_MS + DAY_MS - clock::now_ms()] {
        set(&machine.file, wrong_by_ms);
        let refused = eventually("the gateway notices", async || {
            let answer = client.spend("api_call", 1).await.unwrap();
            match answer.status.as_u16() {
                200 => {
                    accepted += 1;
                    None
                }
                503 => Some(answer),
                status => panic!("{status}"),
            }
        })
        .await;
        assert_eq!(refused.json().unwrap()["error"], "clock_wrong");
        assert!(refused.header("retry-after").is_some());
        let (is_ready, report) = machine.ready().await;
        assert!(
            !is_ready && report.contains("clock: the machine's clock is"),
            "{report}"
        );
        for _ in 0..20 {
            assert_eq!(client.spend("api_call", 1).await.unwrap().status, 503);
        }
        set(&machine.file, 0);
        eventually("the clock is right", async || {
            let is_accepted = client.spend("api_call", 1).await.unwrap().status == 200;
            accepted += u64::from(is_accepted);
            is_accepted.then_some(())
        })
        .await;
        assert!(machine.ready().await.0);
    }
    let ended_ms = clock::now_ms();
    machine
        .stack
        .assert_stored(ada.account_id, accepted, accepted as i64)
        .await;
    // Also while the clock was wrong and the gateway had not noticed yet.
    machine.assert_times(ada.account_id, began_ms, ended_ms).await;
}

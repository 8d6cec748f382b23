//! Reports of many accounts at once, at Stripe's rate and latency.

use std::time::{Duration, Instant};

use devstack::{DataDir, Nats, NatsOptions, Service, StripeDoubleOptions};
use harness::eventually;
use schema::{Period, clock};
use uuid::Uuid;

use super::rig::{DAY, Rig};

const ACCOUNTS: usize = 10_000;
/// The latency of each call to Stripe.
const LATENCY: Duration = Duration::from_millis(30);
/// 10,000 calls one by one wait for Stripe for 300 s. At the default rate of 500 meter events per second they take 20 s, on a
/// machine that is fast enough.
const WITHIN: Duration = Duration::from_secs(LATENCY.as_millis() as u64 * ACCOUNTS as u64 / 1_000 / 2);
/// Memory in addition to that of an idle worker: a few batches, not all accounts.
const GROWTH_MAX_KIB: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_accounts_are_reported_many_at_once_and_in_bounded_memory() {
    let now = clock::now_s();
    let options = StripeDoubleOptions {
        // The worker is a process and uses the real clock.
        start_at: Some(now),
        requests_kept: 100,
        ..StripeDoubleOptions::default()
    };
    let rig = Rig::with(options, Default::default()).await;
    let data = DataDir::create().unwrap();
    let nats = Nats::start(&data.path().join("nats"), &NatsOptions::default())
        .await
        .unwrap();
    let (mut worker, _) = rig.start_worker(&data, &nats, &[("REPORT_INTERVAL", "1")]).await;
    let period = Period {
        start: now - DAY,
        end: now + 29 * DAY,
    };
    let accounts = rig.accounts(ACCOUNTS, period).await;
    let idle_kib = peak_kib(&mut worker);
    rig.stripe.set_latency(LATENCY);

    let began = Instant::now();
    let usage = accounts
        .iter()
        .zip(1..)
        .map(|(account, units)| (account.id, "api_call", units));
    rig.insert(period, usage, Uuid::nil()).await;
    eventually("the last account is reported", async || {
        let delivered = rig.count("delivered").await;
        (delivered == ACCOUNTS as i64).then_some(())
    })
    .await;
    let took = began.elapsed();
    let grown_kib = peak_kib(&mut worker).saturating_sub(idle_kib);
    println!(
        "{ACCOUNTS} accounts reported in {took:.1?}, {} MiB more than idle",
        grown_kib / 1024
    );

    worker.stop(Duration::from_secs(40)).await.unwrap();
    rig.assert_told_is_counted(&accounts, &[period]).await;
    assert_eq!(rig.stripe.violations(), Vec::<String>::new());
    assert!(took < WITHIN, "{took:?}");
    assert!(grown_kib < GROWTH_MAX_KIB, "{grown_kib} KiB");
}

/// The maximum memory usage of the process so far.
fn peak_kib(worker: &mut Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.process().id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

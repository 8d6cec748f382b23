//! Durably accepted requests per second through one gateway, compared with a bare handler that stores nothing. First without an ingestor,
//! which would use some of the same cores, then with it.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;

use crate::{bare::Bare, load, median, system::BenchSystem};

pub(crate) async fn compare(
    system: &mut BenchSystem,
    rounds: u8,
    time: Duration,
    connections: usize,
) -> Result<String> {
    let bare = Bare::start().await?;
    let body = r#"{"usage_type":"api_call","cost_units":1,"endpoint":"/api/posts/search"}"#;
    let requests: Vec<Vec<u8>> = system
        .customers
        .iter()
        .map(|customer| load::request("POST", "/v1/usage", &customer.key, body))
        .collect();
    let each = connections.div_ceil(requests.len());
    // All customers at the same time, each on its share of the connections.
    let drive = async |address: &str| -> Result<(f64, f64, f64)> {
        let runs = requests.iter().map(|request| load::run(address, request, each, time));
        let measured = try_join_all(runs).await?;
        let worst = |share: f64| measured.iter().map(|run| run.percentile(share)).fold(0.0, f64::max);
        Ok((
            measured.iter().map(|run| run.requests_per_second).sum(),
            worst(0.5),
            worst(0.99),
        ))
    };
    let (mut bare_runs, mut gateway_runs, mut storing_runs) = (Vec::new(), Vec::new(), Vec::new());
    drive(system.gateway()).await?; // warms keys, leases and connections
    system.stop_ingestor().await?;
    for _ in 0..rounds {
        bare_runs.push(drive(&bare.address).await?);
        gateway_runs.push(drive(system.gateway()).await?);
    }
    system.start_ingestor().await?;
    for _ in 0..rounds {
        storing_runs.push(drive(system.gateway()).await?);
    }
    let admitted = async |source: &str| {
        system
            .metric(&format!("gateway_quota_admitted_total{{source=\"{source}\"}}"))
            .await
    };
    let (local, asked) = (admitted("local").await?, admitted("postgres").await?);
    let rate = |runs: &[(f64, f64, f64)]| median(runs.iter().map(|run| run.0).collect());
    let percentiles = |runs: &[(f64, f64, f64)]| {
        (
            median(runs.iter().map(|run| run.1).collect()),
            median(runs.iter().map(|run| run.2).collect()),
        )
    };
    let ((bare_p50, bare_p99), (p50, p99), (storing_p50, storing_p99)) = (
        percentiles(&bare_runs),
        percentiles(&gateway_runs),
        percentiles(&storing_runs),
    );
    Ok(format!(
        "accepted requests a second, POST /v1/usage, {connections} connections, {} accounts, {time:?} a round, median of {rounds}:\n\
         \x20 bare axum handler      {:>9.0}/s   p50 {bare_p50:.2} ms  p99 {bare_p99:.2} ms\n\
         \x20 gateway, each durable  {:>9.0}/s   p50 {p50:.2} ms  p99 {p99:.2} ms\n\
         \x20 ratio                  {:>9.2}\n\
         \x20 gateway, while all is stored in ClickHouse on the same cores  {:>9.0}/s   p50 {storing_p50:.2} ms  p99 {storing_p99:.2} ms\n\
         \x20 admitted from units at hand  {:.4} % of {} requests ({asked} asked PostgreSQL)",
        requests.len(),
        rate(&bare_runs),
        rate(&gateway_runs),
        rate(&gateway_runs) / rate(&bare_runs),
        rate(&storing_runs),
        100.0 * local as f64 / (local + asked).max(1) as f64,
        local + asked,
    ))
}

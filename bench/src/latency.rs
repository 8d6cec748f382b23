//! The latency that the gateway adds to a request: proxied compared with direct requests, at a load without queues.

use std::time::Duration;

use anyhow::Result;

use crate::{load, median, system::BenchSystem};

const CONNECTIONS: [usize; 2] = [1, 8];

pub(crate) async fn compare(system: &BenchSystem, rounds: u8, time: Duration) -> Result<String> {
    let request = load::request("GET", "/api/posts/search?q=bench", &system.customers[0].key, "");
    let mut text =
        String::from("\nlatency, GET /api/posts/search, through the gateway (durable) beside the upstream alone:");
    for connections in CONNECTIONS {
        let (mut direct, mut proxied) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            direct.push(load::run(system.upstream()?, &request, connections, time).await?);
            proxied.push(load::run(system.gateway(), &request, connections, time).await?);
        }
        let at = |runs: &[load::Measured], share| median(runs.iter().map(|run| run.percentile(share)).collect());
        let (p50, p99) = (
            (at(&direct, 0.5), at(&proxied, 0.5)),
            (at(&direct, 0.99), at(&proxied, 0.99)),
        );
        text.push_str(&format!(
            "\n  {connections:>2} connections: p50 {:.2} ms direct, {:.2} ms proxied (+{:.2}); p99 {:.2} ms direct, {:.2} ms proxied (+{:.2})",
            p50.0,
            p50.1,
            p50.1 - p50.0,
            p99.0,
            p99.1,
            p99.1 - p99.0,
        ));
    }
    Ok(text)
}

//! The machine on which the figures are measured.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result};

use crate::system::BenchSystem;

/// Machine, versions and speed of the disk, for the head of a report.
pub(crate) async fn describe(system: &BenchSystem) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let nats = async_nats::connect(system.servers.nats.url())
        .await
        .context("asking NATS for its version")?;
    let postgres = system.postgres_version().await?;
    let clickhouse: String = system.clickhouse().query("select version()").fetch_one().await?;
    Ok(format!(
        "machine: {cores} cores, {cpu}; load generator, servers and services share them\n\
         versions: trendit-usage {} (release build), NATS {} (sync_interval: always), PostgreSQL {postgres}, ClickHouse {clickhouse}\n\
         fsync of 4 KiB: {}\n",
        env!("CARGO_PKG_VERSION"),
        nats.server_info().version,
        fsync_probe(system.servers.data().path())?,
    ))
}

/// The time that the disk needs to make 4 KiB durable. All figures of durable writes depend on it.
pub(crate) fn fsync_probe(dir: &Path) -> Result<String> {
    let path = dir.join("fsync-probe");
    let mut file = File::create(&path).context("making the fsync probe's file")?;
    let mut took = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        took.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    fs::remove_file(&path)?;
    took.sort_by(f64::total_cmp);
    Ok(format!("p50 {:.2} ms, p99 {:.2} ms", took[100], took[198]))
}

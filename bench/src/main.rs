//! Compares the system with bare servers on the same machine, in one run. The figures are ratios, because machines differ.
//!
//! `cargo run --release -p bench` prints the machine, the versions, and for each comparison the medians of several alternating
//! rounds.

mod bare;
mod ingest;
mod latency;
mod load;
mod machine;
mod system;
mod throughput;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;

#[derive(Parser, Clone, Debug)]
#[command(
    version,
    about = "Compares the gateway and the ingestor with bare servers, in one run"
)]
struct Args {
    /// Rounds of each comparison; the medians are printed
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Seconds of one measurement
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u16).range(1..=120))]
    seconds: u16,
    /// Connections of the load generator
    #[arg(long, default_value = "256", value_parser = clap::value_parser!(u16).range(1..=2048))]
    connections: u16,
    /// Rows of the ingest comparison
    #[arg(long, default_value = "1000000", value_parser = clap::value_parser!(u64).range(10_000..=20_000_000))]
    rows: u64,
}

fn main() -> ExitCode {
    if let Some(code) = devstack::run_if_asked().or_else(bare::run_if_asked) {
        return code;
    }
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime
        .context("starting the async runtime")
        .and_then(|runtime| runtime.block_on(run(&args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let seconds = Duration::from_secs(args.seconds.into());
    let mut system = system::start().await?;
    println!("{}", machine::describe(&system).await?);
    println!(
        "{}",
        throughput::compare(&mut system, args.rounds, seconds, args.connections.into()).await?
    );
    println!("{}", latency::compare(&system, args.rounds, seconds).await?);
    println!("{}", ingest::compare(&mut system, args.rounds, args.rows).await?);
    println!(
        "fsync after it all: {}",
        machine::fsync_probe(system.servers.data().path())?
    );
    system.stop().await
}

/// The median.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

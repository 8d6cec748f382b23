//! `faults`: tries to break the guarantees on the whole system, and exits with 1 if it succeeds.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use harness::faults::{self, Options, plan};
use tokio::signal::unix::{SignalKind, signal};

/// The fault suite: kills, stops, restarts, network faults, full disks and wrong clocks, under load. Afterwards it compares
/// every answer with the stored data.
#[derive(Parser)]
struct Cli {
    /// How long faults are injected
    #[arg(long, default_value = "10")]
    minutes: f64,
    /// Seed of the plan and of the clients [default: any]
    #[arg(long)]
    seed: Option<u64>,
    /// Calls per second, of all clients together
    #[arg(long, default_value = "200")]
    rate: f64,
    /// Kinds of faults, comma separated [default: all]
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(plan::KINDS))]
    only: Vec<String>,
    /// Print the plan and exit
    #[arg(long)]
    plan: bool,
    /// Print the figures as one JSON object on standard output
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    harness::wrong_clock::inject();
    if let Some(code) = devstack::run_if_asked() {
        return code;
    }
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.context("starting the async runtime").and_then(|runtime| {
        let result = runtime.block_on(run(&cli));
        runtime.shutdown_background();
        result
    });
    result.unwrap_or_else(|error| {
        eprintln!("faults: {error:#}");
        ExitCode::from(2)
    })
}

async fn run(cli: &Cli) -> Result<ExitCode> {
    ensure!(
        cli.minutes > 0.0 && cli.minutes <= 24.0 * 60.0 && cli.rate > 0.0 && cli.rate <= 10_000.0,
        "--minutes is up to a day, and --rate up to 10000"
    );
    let exe = std::env::current_exe().context("finding our own executable")?;
    let seed = cli.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let length = Duration::from_secs_f64(cli.minutes * 60.0);
    let mut options = Options::new(exe, seed, length);
    (options.calls_per_second, options.only, options.talk) = (cli.rate, cli.only.clone(), true);
    if cli.plan {
        options.plan().iter().for_each(|step| println!("{step}"));
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("faults: seed {seed}; --seed {seed} --plan prints what will happen");
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let report = tokio::select! {
        report = faults::run(&options) => report?,
        // Dropping the services and servers kills them and deletes their data.
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::from(143)),
    };
    match cli.json {
        true => println!("{}", report.json()),
        false => println!("{report}"),
    }
    Ok(match report.violations.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

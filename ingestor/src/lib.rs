//! The ingestor: reads lane records from the stream and stores each event in ClickHouse exactly once.
//!
//! | what | where |
//! |---|---|
//! | settings and sub-commands | [`config`] |
//! | starting and stopping the service | [`app`] |
//! | the NATS stream and buckets | [`stream`]; [`generation`] after a restore or reset |
//! | how far each shard is stored | [`manifests`] |
//! | which ingestor has which shard | [`shards`] |
//! | reading records and storing them as rows | [`pipeline`] |
//! | audits, repairs, trimming, closing days | [`upkeep`] |
//! | the tables of ClickHouse | [`migrate`] |
//! | what all shards share; why work on a shard stops | [`ingest`]; [`stop`] |
//! | what an operator sees | [`alarms`], [`metrics`] |
//!
//! # Invariants
//! - A range is inserted only after its manifest was written, and completed only after each of its rows was verified once.
//! - A replay inserts the same rows with the same `ingested_at`, or nothing.
//! - No record is skipped or removed from the stream unless it is in ClickHouse or among the dead letters.

pub mod alarms;
pub mod app;
pub mod config;
pub mod generation;
pub mod ingest;
pub mod manifests;
pub mod metrics;
pub mod migrate;
pub mod pipeline;
pub mod shards;
pub mod stop;
pub mod stream;
pub mod upkeep;

use std::process::ExitCode;

/// Runs the service until a signal stops it. `args[0]` is the name of the program.
pub fn run(args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match config::Cli::parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not failures.
            return if error.print().is_ok() && !error.use_stderr() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ingestor: could not start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(app::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // To standard error, because logging may not have started.
            eprintln!("ingestor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

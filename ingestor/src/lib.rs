//! The ingestor: reads lane records from the stream and stores every event in ClickHouse exactly once.
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
//! - A range is inserted only after its manifest was written, and left behind only after all its rows were seen, once each.
//! - A replay inserts the same rows with the same `ingested_at`, or nothing.
//! - Nothing that is not in ClickHouse (or among the dead letters) is passed over or removed from the stream.

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

/// Runs the service until it is told to stop. `args[0]` is the program's name.
pub fn run(args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match config::Cli::parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure.
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
            eprintln!("ingestor: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(app::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // To standard error, also where logging could not start.
            eprintln!("ingestor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

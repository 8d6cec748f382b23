//! The ingestor: reads lane records from the stream and stores every event in ClickHouse exactly once.
//!
//! | what | file |
//! |---|---|
//! | settings and sub-commands | [`config`] |
//! | putting it together, stopping it | [`app`] |
//! | the NATS objects it owns | [`stream`] |
//! | who is there, who has which shard | [`members`], [`shards`], [`claim`] |
//! | how far a shard is stored, by compare-and-set | [`manifests`] |
//! | one shard, taken and given up | [`shard`] |
//! | one shard at work: read, gather, seal, insert, verify | [`work`] |
//! | reading in order, ahead of storing | [`reader`], [`feed`], [`record`] |
//! | cutting ranges (pure) | [`batch`] |
//! | dropping what was stored before under the same `Idempotency-Key` | [`duplicates`] (pure), [`stored_before`] |
//! | storing a range until it is seen to be there once | [`store`], [`row`], [`sink`], [`verify`] |
//! | what cannot be decoded | [`dead_letter`] |
//! | removing from the stream what is stored and old | [`trim`] |
//! | comparing the stream with the rows, and mending | [`audit`], [`repair`], [`chunk`] |
//! | the tables of ClickHouse; closing days | [`migrate`]; [`rollup`], [`rollups`] |
//! | a stream that was restored or reset | [`generation`] |
//! | what an operator sees | [`alarms`], [`metrics`] |
//!
//! # Invariants
//! - A range is inserted only after its manifest was written, and left behind only after all its rows were seen, once each.
//! - A replay inserts the same rows with the same `ingested_at`, or nothing.
//! - Nothing that is not in ClickHouse (or among the dead letters) is passed over or removed from the stream.

pub mod alarms;
pub mod app;
pub mod audit;
pub mod batch;
pub mod chunk;
pub mod claim;
pub mod config;
pub mod dead_letter;
pub mod duplicates;
pub mod feed;
pub mod generation;
pub mod ingest;
pub mod manifests;
pub mod members;
pub mod metrics;
pub mod migrate;
pub mod reader;
pub mod record;
pub mod repair;
pub mod rollup;
pub mod rollups;
pub mod row;
pub mod shard;
pub mod shards;
pub mod sink;
pub mod stop;
pub mod store;
pub mod stored_before;
pub mod stream;
pub mod trim;
pub mod verify;
pub mod work;

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

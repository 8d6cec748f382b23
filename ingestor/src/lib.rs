//! The ingestor: reads lane records from the stream and stores each event in ClickHouse exactly once.
//!
//! | what | where |
//! |---|---|
//! | settings and sub-commands | [`config`] |
//! | starting and stopping the service | [`app`] |
//! | the NATS stream and buckets | [`stream`]; [`generation`] after a restore or reset |
//! | the progress of each shard | [`manifests`] |
//! | which ingestor owns which shard | [`shards`] |
//! | reading records and storing them as rows | [`pipeline`] |
//! | audits, repairs, trimming, closing days | [`upkeep`] |
//! | creating and updating the tables of ClickHouse | [`migrate`], [`tables`] |
//! | the state that all shards share; why work on a shard stops | [`ingest`]; [`stop`] |
//! | alarms and metrics for operators | [`alarms`], [`metrics`] |
//!
//! # Invariants
//! - A range is inserted only after its manifest was written. It is completed only after ClickHouse verifiably has its rows.
//! - A replay inserts the same rows with the same `ingested_at`, or nothing.
//! - No new record is read while ClickHouse lacks rows that it had and that the stream can bring back.
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
pub mod tables;
pub mod upkeep;

use std::{ffi::OsString, process::ExitCode};

/// Runs the service until it is stopped, or one sub-command. `args[0]` is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    service::boot::boot::<app::Ingestor>(args)
}

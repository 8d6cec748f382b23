//! Tests of the whole system on real servers. Every test starts its own servers, waits for conditions, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "tests count small numbers"
)]

mod bad_input;
mod billing;
mod burst;
mod changes;
mod clickhouse;
mod clock;
mod corrections;
mod counting;
mod docs;
mod edge;
mod faults;
mod idempotency;
mod ingest;
mod lanes;
mod limits;
mod notices;
mod own_api;
mod parsers;
mod payment;
mod permissions;
mod postgres;
mod proxying;
mod quotas;
mod recall;
mod reports;
mod secrets;
mod settings;
mod settle;
mod shutdown;
mod smuggling;
mod spool;
mod subscriptions;
mod terms;
mod watermark;

/// The services, in one executable.
const SERVICES: &str = env!("CARGO_BIN_EXE_services");

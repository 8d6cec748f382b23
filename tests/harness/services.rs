//! All services in one executable, for the tests to start: `services service gateway`.

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::wrong_clock::inject();
    devstack::services::run_if_asked().unwrap_or_else(|| {
        eprintln!("usage: services service <gateway|ingestor|billing-worker>");
        ExitCode::from(2)
    })
}

//! The services that are built into this binary.

use std::ffi::OsStr;
use std::process::ExitCode;

/// Runs a service if we were called as `<exe> service <name> …`; call it first thing in `main`, before any thread.
/// `None`: we were called for something else.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != "service" {
        return None;
    }
    let name = args.next().unwrap_or_default();
    let args = std::iter::once(name.clone()).chain(args);
    Some(match name.to_str() {
        Some("gateway") => gateway::run(args),
        Some("ingestor") => ingestor::run(args),
        Some("billing-worker") => billing_worker::run(args),
        _ => unknown(&name),
    })
}

fn unknown(name: &OsStr) -> ExitCode {
    eprintln!("devstack: no service is called {name:?}: gateway, ingestor or billing-worker");
    ExitCode::from(2)
}

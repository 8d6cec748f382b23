//! The gateway: decides on a request, passes it on, records it, answers it.
//!
//! # The flow, and where to find it
//! ```text
//! connection ─ server (the crate service) ─ edge ─ router (the crate's `http`)
//!    auth: one look-up (accounts → account)
//!    burst: one atomic beside the key, where the plan has such a limit
//!    publisher: a place in the account's lane, before a unit is spent
//!    quotas: an atomic over a lease (counter, lease); the lease client takes and returns leases (leases) → PostgreSQL
//!    proxy: the upstream
//!    metering → publisher → lane (the crate) → stream USAGE → the answer
//! ```
//! | to find | open |
//! |---|---|
//! | settings, checked before any socket is bound | [`config`] |
//! | start, drain, stop | [`app`] |
//! | connections and their bounds | [`service::server`] |
//! | the public port: routes, `/v1`, the reverse proxy, problem bodies | [`http`] |
//! | what a call costs | [`pricing`] |
//! | keys and accounts, cached; burst limits | [`accounts`] |
//! | admitted or refused; units of other gateways | [`quota`] |
//! | events on their way, and the units that they spend; answers to an `Idempotency-Key` | [`recording`] |
//! | a run of this gateway: its row, its heartbeat, its lanes; how a lane is written; the spool | the crate [`lane`] |
//!
//! # Invariants
//! - A 2xx leaves only after the event is stored, in the stream or in the spool ([`recording::publisher::Outcome::Stored`]).
//! - A place in the lane is taken before a unit is spent, and a unit before the upstream is asked.
//! - No lease is taken before all lanes of the run are open; a run is closed only after all lanes are closed and all
//!   leases returned.
//! - A counter is closed before its units are given back, and a recall is answered after Postgres has them.
//! - Units of an event whose outcome is not known are spent, never given back.
//! - All leases of a run that ended are dropped before the next one begins, so no event in a lane is paid for by another run.

pub mod accounts;
pub mod app;
pub mod config;
pub mod http;
pub mod pricing;
pub mod quota;
pub mod recording;

use std::{ffi::OsString, process::ExitCode};

/// Runs the service until it is stopped. `args[0]` is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    service::boot::boot::<app::GatewayService>(args)
}

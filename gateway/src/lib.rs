//! The gateway: admits a request, forwards it to the upstream, records it, and sends the response.
//!
//! # The flow, and where to find it
//! ```text
//! connection ─ server (crate `service`) ─ edge ─ router (http)
//!    auth: one look-up in the cache of keys (accounts)
//!    burst: one atomic beside the key, if the plan has a burst limit (accounts::burst)
//!    slot: a slot in the account's lane, before a unit is spent (recording::publisher)
//!    quota: one atomic on a lease at hand (quota::counter); the lease client takes and returns leases → PostgreSQL
//!    proxy: the request goes to the upstream (http::proxy)
//!    record: recorder → publisher → lane (crate `lane`) → stream USAGE → the response
//! ```
//! | to find | open |
//! |---|---|
//! | settings, checked before any socket is bound | [`config`] |
//! | start, drain, stop | [`app`] |
//! | connections and their limits | [`service::server`] |
//! | the public port: routes, `/v1`, the reverse proxy, problem bodies | [`http`] |
//! | what a call costs | [`pricing`] |
//! | the right time, compared with the clocks of PostgreSQL and NATS | [`clock`] |
//! | the cache of keys and accounts; burst limits | [`accounts`] |
//! | the decision to admit or refuse a request; recalling units from other gateways | [`quota`] |
//! | publishing events and spending their units; responses to an `Idempotency-Key` | [`recording`] |
//! | a run of this gateway: its row, heartbeat and lanes; writing a lane; the spool | the crate [`lane`] |
//!
//! # Invariants
//! - The gateway sends a 2xx only after the event is stored, in the stream or in the spool
//!   ([`recording::publisher::PublishOutcome::Stored`]).
//! - A request takes a slot in the lane before it spends units, and units before the upstream receives it.
//! - The gateway takes no lease before all lanes of the run are open. It closes a run only after all lanes are closed and all
//!   leases are returned.
//! - A counter is closed before its units are given back. A recall is answered after PostgreSQL has the units.
//! - Requests are admitted and stamped by the right time, not by the machine's clock. While that is wrong, nothing is admitted.
//! - Units of an event with an unknown outcome count as spent. They are never given back.
//! - All leases of an ended run are dropped before the next run begins, so an event never spends units of another run.

pub mod accounts;
pub mod app;
pub mod clock;
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

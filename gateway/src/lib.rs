//! The gateway: decides on a request, passes it on, records it, answers it.
//!
//! # The flow, and where to find it
//! ```text
//! connection ─ server (the crate service) ─ edge ─ http (routes of the public port)
//!    auth: one look-up (accounts → account)
//!    burst: one atomic beside the key, where the plan has such a limit
//!    publisher: a place in the account's lane, before a unit is spent
//!    quotas: an atomic over a lease (counter, lease); the broker takes and returns leases (leases) → PostgreSQL
//!    proxy: the upstream
//!    metering → publisher → lane (the crate) → stream USAGE → the answer
//! ```
//! | to find | open |
//! |---|---|
//! | settings, checked before any socket is bound | [`config`] |
//! | start, drain, stop | [`app`] |
//! | connections and their bounds | [`service::server`] |
//! | what every request gets; which are refused because two readers could differ | [`edge`], [`framing`] |
//! | the public port's routes; `/v1` | [`http`], [`api`] |
//! | the reverse proxy, and what its calls cost | [`proxy`], [`routes`], [`cost`] |
//! | one answer to one `Idempotency-Key` | [`idempotency_key`], [`answers`] |
//! | decide before, record after, anew if the run ended between | [`metering`], [`completion`], [`current_run`] |
//! | what goes wrong, as a problem body | [`problem`] |
//! | keys and accounts, cached; what is announced of them | [`accounts`], [`account`], [`announcements`] |
//! | admitted or refused | [`burst`], [`quotas`], [`admission`] |
//! | units of other gateways, before a refusal; refusals that are remembered | [`recall`], `refusals` |
//! | events on their way, and the units that they spend | [`publisher`] |
//! | a run of this gateway: its row, its heartbeat, its lanes; how a lane is written; the spool | the crate [`lane`] |
//! | what is counted | [`publisher`], [`request_metrics`] |
//!
//! # Invariants
//! - A 2xx leaves only after the event is stored, in the stream or in the spool ([`publisher::Outcome::Stored`]).
//! - A place in the lane is taken before a unit is spent, and a unit before the upstream is asked.
//! - No lease is taken before all lanes of the run are open; a run is closed only after all lanes are closed and all
//!   leases returned.
//! - A counter is closed before its units are given back, and a recall is answered after Postgres has them.
//! - Units of an event whose outcome is not known are spent, never given back.
//! - All leases of a run that ended are dropped before the next one begins, so no event in a lane is paid for by another run.

pub mod account;
pub mod accounts;
pub mod admission;
pub mod announcements;
pub mod answers;
pub mod api;
pub mod app;
pub mod auth;
pub mod balance;
pub mod body;
pub mod burst;
pub mod client;
pub mod completion;
pub mod config;
pub mod cost;
mod counter;
pub mod current_run;
mod decision_metrics;
pub mod edge;
pub mod framing;
pub mod gateway;
pub mod http;
pub mod idempotency_key;
mod leases;
pub mod metering;
pub mod problem;
pub mod proxy;
pub mod publisher;
mod quota;
pub mod quotas;
pub mod rate_limit;
pub mod recall;
mod refusals;
pub mod request_metrics;
mod reservation;
pub mod routes;
mod turn;
mod wrong_clock;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use app::Application;
use config::{Config, Settings};
use protocol::{lease, queued};

/// Runs the service until it is told to stop. `args[0]` is the program's name.
///
/// Exits with 0 when all went well, 1 when it failed or something was left at the end, 2 when its settings are wrong.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::read(args) {
        Ok(settings) => settings,
        Err(shown) => {
            shown.print().ok();
            return ExitCode::from(u8::try_from(shown.exit_code()).unwrap_or(2));
        }
    };
    let logging = service::telemetry::init(&settings.service);
    let config = match logging.and_then(|()| Config::check(settings)) {
        Ok(config) => config,
        Err(error) => return failed(&error, ExitCode::from(2)),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = anyhow::Error::new(error).context("starting the async runtime");
            return failed(&error, ExitCode::FAILURE);
        }
    };
    let done = runtime.block_on(async {
        let application = Application::build(config).await?;
        application.life().stop_on_signals()?;
        application.run_until_stopped().await
    });
    // What blocks (looking up a name) is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, ExitCode::FAILURE),
    }
}

fn failed(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    eprintln!("gateway: {error:#}");
    code
}

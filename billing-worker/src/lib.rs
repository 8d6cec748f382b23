//! The billing worker: accounts, API keys, plans and limits; who owes what, and who may do what.
//!
//! It owns the database: it migrates it, copies the plan catalogue into it, and changes accounts, keys, subscriptions and
//! limits. Gateways read what it wrote; each change is announced over NATS after its commit, so that they read it at once.
//!
//! | what | file |
//! |---|---|
//! | settings, from arguments and environment | [`config`] |
//! | the service: start, drain, stop | [`app`] |
//! | sub-commands: the same changes from a shell | [`command`] |
//! | the admin API, `/admin/*` on the admin port | [`admin_api`] |
//! | the public API, `/billing/*` | [`public_api`] |
//! | what an administrative change needs | [`administration`] |
//! | accounts | [`accounts`] |
//! | API keys | [`keys`] |
//! | plans, and their copy in the database | [`plans`] |
//! | which plan an account has, since when | [`subscriptions`] |
//! | limits in force, and overrides of them | [`limits`] |
//! | usage that is lowered afterwards | [`corrections`] |
//! | runs that died, and what they had not spent | [`settle`] |
//! | units of dropped duplicates, back to their pools | [`duplicates`], [`pools`] |
//! | who changed what | [`audit`] |
//! | what is done again and again | [`chores`] |
//! | deleting rows whose retention is over | [`retention`] |
//! | telling Stripe what was used | [`reports`] |
//! | telling the gateways | [`announce`] |
//! | telling accounts of their usage | [`notices`] |
//! | migrations, and whether the database is there | [`database`] |
//! | lists in pages | [`page`] |
//! | what can go wrong, as an HTTP answer | [`error`] |
//! | Stripe's API | [`stripe`] |
//! | counters for the operator | [`metrics`] |
//!
//! # Invariants
//! - Whoever changes an account's plan, status or limits holds the lock of its row in `accounts` until the commit.
//! - An account has one current subscription at the most; none means Free.
//! - `quota_pool.limit_units` of a running period is the override, or else the plan's limit, as soon as the change commits.
//! - An administrative change and its entry in the audit log are one transaction.
//! - Of an account, usage type and billing period: units told to Stripe = units counted + carried in − carried out. A report is
//!   in the database before it is sent, and never under another identifier.
//! - A lease is settled once, after its lane is ended and all that is in it is in ClickHouse.
//! - An API key's text exists in one answer, the one to its making: never in a log, never in a table.

pub mod accounts;
pub mod admin_api;
pub mod administration;
pub mod announce;
pub mod app;
pub mod audit;
pub mod billing;
pub mod body;
pub mod chores;
pub mod command;
pub mod config;
pub mod corrections;
pub mod customers;
pub mod database;
pub mod duplicates;
pub mod error;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod notices;
pub mod page;
pub mod plans;
pub mod pools;
pub mod public_api;
pub mod reports;
pub mod retention;
pub mod settle;
pub mod stripe;
pub mod subscriptions;
pub mod turns;
pub mod webhook;

use std::{ffi::OsString, process::ExitCode};

use config::{Settings, Task};

/// Runs the service until it is told to stop, or one sub-command. `args[0]` is the program's name.
///
/// Exits with 0 when all went well, 1 when it failed, 2 when it was asked for something that cannot be.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::read(args) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    if let Err(error) = service::telemetry::init(&settings.service) {
        failed(&error);
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("starting the async runtime")),
    };
    let done = runtime.block_on(async {
        match &settings.task {
            Task::Run => app::run(&settings).await,
            Task::Command(command) => command::run(command, &settings).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("billing-worker: {error:#}");
    ExitCode::FAILURE
}

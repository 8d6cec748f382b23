//! The billing worker: accounts, API keys, plans and limits; who owes what, and who may do what.
//!
//! It owns the database: it migrates it, copies the plan catalogue into it, and changes accounts, keys, subscriptions and
//! limits. Gateways read what it wrote; each change is announced over NATS after its commit, so that they read it at once.
//!
//! | what | file |
//! |---|---|
//! | settings, from arguments and environment | [`config`] |
//! | the service: start, drain, stop; what it does again and again | [`app`] |
//! | sub-commands: the same changes from a shell | [`cli`] |
//! | the admin API `/admin/*`, the public API `/billing/*`, Stripe's webhooks | [`http`] |
//! | what an administrative change needs: who makes it, the audit log, telling the gateways, lists in pages | [`administration`] |
//! | accounts, their API keys, limits and plans, their customer in Stripe | [`accounts`] |
//! | which plan an account has, since when | [`subscriptions`] |
//! | usage that is lowered afterwards; units of dropped duplicates, back to their pools | [`corrections`] |
//! | runs that died, and what they had not spent | [`runs`] |
//! | deleting rows whose retention is over | [`retention`] |
//! | telling Stripe what was used | [`reports`] |
//! | telling accounts of their usage | [`notices`] |
//! | what Stripe tells us, worked on | [`webhook`] |
//! | migrations, and whether the database is there | [`database`] |
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
pub mod administration;
pub mod app;
pub mod cli;
pub mod config;
pub mod corrections;
pub mod database;
pub mod error;
pub mod http;
pub mod metrics;
pub mod notices;
pub mod reports;
pub mod retention;
pub mod runs;
pub mod stripe;
pub mod subscriptions;
pub mod webhook;

use std::{ffi::OsString, process::ExitCode};

/// Runs the service until it is stopped, or one sub-command. `args[0]` is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    service::boot::boot::<app::BillingWorker>(args)
}

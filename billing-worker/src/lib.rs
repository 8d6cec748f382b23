//! The billing worker: manages accounts, API keys, plans, limits and subscriptions, and reports usage to Stripe.
//!
//! It owns the database. It migrates the database, copies the plan catalogue into it, and changes accounts, keys, subscriptions
//! and limits. Gateways read these rows. The billing worker announces each change over NATS after its commit, so that gateways
//! read it at once.
//!
//! | what | file |
//! |---|---|
//! | settings, from arguments and environment | [`config`] |
//! | the service: start, drain, stop; periodic jobs | [`app`] |
//! | sub-commands: the same changes from a shell | [`cli`] |
//! | the admin API `/admin/*`, the public API `/billing/*`, Stripe's webhooks | [`http`] |
//! | parts of every administrative change: requester, audit log, announcements to gateways, pagination | [`administration`] |
//! | accounts, their API keys, limits and plans, their customer in Stripe | [`accounts`] |
//! | the plan of an account, and its subscription in Stripe | [`subscriptions`] |
//! | lowering recorded usage; returning units of dropped duplicates to their pools | [`corrections`] |
//! | ending dead runs, and returning their unspent units | [`runs`] |
//! | the most that accounts want to pay for usage | [`spend_caps`] |
//! | wait until ClickHouse has all acknowledged usage | [`stored`] |
//! | deleting rows whose retention is over | [`retention`] |
//! | reporting usage to Stripe | [`reports`] |
//! | notifying accounts of their usage | [`notices`] |
//! | applying Stripe's events | [`webhook`] |
//! | work that must still happen in Stripe | [`tasks`] |
//! | states in Stripe that an operator must solve | [`findings`] |
//! | what is wrong with the settings and with Stripe, and how to mend it | [`check`] |
//! | a subscription's whole life in a sandbox, and what Stripe billed for it | [`rehearse`] |
//! | migrations, and the availability of the database | [`database`] |
//! | errors of requests and commands | [`error`] |
//! | the client of Stripe's API | [`stripe`] |
//! | metrics | [`metrics`] |
//!
//! # Invariants
//! - A transaction that changes an account's plan, status or limits holds the lock of its row in `accounts` until the commit.
//! - An account has at most one current subscription. Without one, the account has the Free plan.
//! - `quota_pool.limit_units` is the override, or else the plan's limit, as soon as the change commits: in the running period and in
//!   each period to come that a gateway has opened, whatever any clock says. In a period that is over it never rises.
//! - An administrative change and its entry in the audit log are one transaction.
//! - For each account, usage type and billing period: units reported to Stripe = units counted + carried in − carried out. A
//!   report is in the database before it is sent, and its identifier never changes.
//! - A change that first undoes something in Stripe stores a task before its first call. The task is repeated until it is done.
//! - A lease is settled once, after its lane is ended and all of the lane's events are in ClickHouse.
//! - An API key's text appears only in the response to its creation, never in a log or a table.

pub mod accounts;
pub mod administration;
pub mod app;
pub mod check;
pub mod cli;
pub mod config;
pub mod corrections;
pub mod database;
pub mod error;
pub mod findings;
pub mod http;
pub mod metrics;
pub mod notices;
pub mod rehearse;
pub mod reports;
pub mod retention;
pub mod runs;
pub mod spend_caps;
pub mod stored;
pub mod stripe;
pub mod subscriptions;
pub mod tasks;
pub mod webhook;

use std::{ffi::OsString, process::ExitCode};

/// Runs the service until it is stopped, or one sub-command. `args[0]` is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    service::boot::boot::<app::BillingWorker>(args)
}

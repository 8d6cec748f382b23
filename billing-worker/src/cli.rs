//! Sub-commands: the changes of the admin API, from a shell. Results go to standard output, the log goes to standard error.
//!
//! [`invocation`] reads the command line. Each command below has a file of its own.

mod accounts;
mod argument;
pub mod invocation;
mod keys;
mod notices;
mod page;
mod plans;
mod print;
mod reports;
mod runs;
mod spend_cap;
mod stripe;
mod trail;

use std::sync::Arc;

use anyhow::Result;
use clap::Subcommand;
use service::{Health, boot};

use crate::{
    administration::{Administration, By, announce::Announcer},
    config::Settings,
    database,
    error::Error,
};

#[derive(Subcommand)]
pub enum Command {
    /// Run the service (the default)
    Run,
    /// Migrate the database
    Migrate,
    /// The plan catalogue
    #[command(subcommand)]
    Catalogue(plans::CatalogueCommand),
    /// Accounts: create, list, show, suspend, resume, link to a customer in Stripe
    #[command(subcommand)]
    Accounts(accounts::AccountsCommand),
    /// API keys: create, list, revoke, rotate, change scopes
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Plans: list, assign, migrate to another version
    #[command(subcommand)]
    Plans(plans::PlansCommand),
    /// Limits for one account; they replace the limits of its plan
    #[command(subcommand)]
    Limits(plans::LimitsCommand),
    /// The most that an account pays for usage in a period: show, set, remove
    #[command(subcommand)]
    SpendCap(spend_cap::SpendCapCommand),
    /// Stripe: create products, prices and meters from the catalogue; check that all is well; retry events
    #[command(subcommand)]
    Stripe(stripe::StripeCommand),
    /// Corrections: lower recorded usage afterwards
    #[command(subcommand)]
    Corrections(trail::CorrectionsCommand),
    /// The audit log: who changed what
    #[command(subcommand)]
    Audit(trail::AuditCommand),
    /// Usage notices: the account's notice endpoint, and the notices sent to it
    #[command(subcommand)]
    Notices(notices::NoticesCommand),
    /// Usage reports to Stripe, and all that needs an operator: list, retry, send now, show what needs attention, accept a difference
    #[command(subcommand)]
    Reports(reports::ReportsCommand),
    /// Runs of gateways and billing workers: list unsettled runs; give up a run whose spool is lost
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    /// Compare usage in ClickHouse, the ledger and Stripe, and what is owed with the invoices; fails if they differ, or if usage is
    /// not reported or late usage is on no invoice for too long
    Reconcile(reports::ReconcileArguments),
}

impl Command {
    /// It must not run with a live key.
    pub fn needs_sandbox(&self) -> bool {
        matches!(self, Self::Stripe(stripe::StripeCommand::Rehearse { .. }))
    }
}

pub async fn run(command: &Command, settings: &Settings, json: bool) -> Result<()> {
    let health = Health::new();
    let connect = service::postgres::connect(&settings.postgres, "billing-worker command", &health);
    let db = boot::soon("PostgreSQL (DATABASE_URL)", connect).await?;
    let admin = Administration {
        db,
        catalogue: Arc::new(settings.catalogue.clone()),
        announcer: Announcer::of_command(&settings.nats),
        clickhouse: service::clickhouse::client(&settings.clickhouse),
        corrections_wait: Arc::default(),
        by: By::Command,
        name: trail::user(),
    };
    let done = match command {
        Command::Run => Ok(()),
        Command::Migrate => print::version(json, database::migrate(&admin.db).await?),
        Command::Catalogue(command) => plans::catalogue(command, &admin, json).await,
        Command::Accounts(command) => accounts::run(command, &admin, settings, json).await,
        Command::Keys(command) => keys::run(command, &admin, json).await,
        Command::Plans(command) => plans::plans(command, &admin, settings, json).await,
        Command::Limits(command) => plans::limits(command, &admin, json).await,
        Command::SpendCap(command) => spend_cap::run(command, &admin, json).await,
        Command::Stripe(command) => stripe::run(command, &admin, settings, json).await,
        Command::Corrections(command) => trail::correction(command, &admin, json).await,
        Command::Audit(command) => trail::audit(command, &admin, json).await,
        Command::Notices(command) => notices::run(command, &admin, settings.notices.policy, json).await,
        Command::Reports(command) => reports::run(command, &admin, settings, json).await,
        Command::Runs(command) => runs::run(command, &admin, json).await,
        Command::Reconcile(arguments) => reports::reconcile(arguments, &admin, settings, json).await,
    };
    done.map_err(explained)
}

/// Adds advice to a known error.
fn explained(error: anyhow::Error) -> anyhow::Error {
    // 42P01: undefined table.
    let unmigrated = match error.downcast_ref() {
        Some(Error::Database(sqlx::Error::Database(error))) => error.code().as_deref() == Some("42P01"),
        _ => false,
    };
    match unmigrated {
        true => error.context("the database is not migrated; run `billing-worker migrate`"),
        false => error,
    }
}

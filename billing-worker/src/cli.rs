//! Sub-commands: what the admin API does, from a shell. Results go to standard output, the log to standard error.

mod notices;
mod print;
mod reports;
mod runs;
mod stripe;
mod trail;

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use clap::Subcommand;
use schema::{AccountId, KeyId, clock};
use service::Health;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    accounts::{
        self, NewAccount, Status,
        keys::{self, NewKey, Rotation},
        limits, plans,
    },
    administration::{Administration, By, announce::Announcer, page::Page},
    config::Settings,
    database,
    error::Error,
    subscriptions,
};

use trail::{AuditCommand, CorrectionsCommand};

/// How long a command waits for the database.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Subcommand)]
pub enum Command {
    /// Run the service (the default)
    Run,
    /// Migrate the database
    Migrate,
    /// The plan catalogue
    #[command(subcommand)]
    Catalogue(CatalogueCommand),
    /// Accounts: create, find, suspend, resume
    #[command(subcommand)]
    Accounts(AccountsCommand),
    /// API keys: create, list, revoke, rotate
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Plans: list, assign
    #[command(subcommand)]
    Plans(PlansCommand),
    /// Limits agreed with one account
    #[command(subcommand)]
    Limits(LimitsCommand),
    /// Stripe: products, prices and meters of the catalogue; events
    #[command(subcommand)]
    Stripe(stripe::StripeCommand),
    /// Recorded usage that is lowered afterwards
    #[command(subcommand)]
    Corrections(CorrectionsCommand),
    /// Who changed what
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Usage notices: where an account is told, what it was told
    #[command(subcommand)]
    Notices(notices::NoticesCommand),
    /// What is told to Stripe: list, try again, tell now
    #[command(subcommand)]
    Reports(reports::ReportsCommand),
    /// Runs of gateways: what is not settled; giving up one whose spool is lost
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    /// ClickHouse, the ledger and Stripe side by side; fails on any drift
    Reconcile(reports::ReconcileArguments),
}

#[derive(Subcommand)]
pub enum CatalogueCommand {
    /// Copy the catalogue into the database (the service does it at its start)
    Sync,
}

#[derive(Subcommand)]
pub enum AccountsCommand {
    /// Make an account
    Create {
        #[arg(long)]
        name: String,
        #[arg(long)]
        email: String,
        /// Plan that it starts with [default: free]
        #[arg(long)]
        plan: Option<String>,
    },
    /// List accounts, the oldest first
    List(PageArguments),
    /// Show one account and what it may do now
    Show {
        /// Id or e-mail address
        account: String,
    },
    /// Answer 402 to every metered call of an account
    Suspend {
        /// Id or e-mail address
        account: String,
    },
    /// Take a suspension back
    Resume {
        /// Id or e-mail address
        account: String,
    },
}

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is printed this once
    Create {
        /// Id or e-mail address
        account: String,
        /// What its owner calls it [default: default]
        #[arg(long)]
        name: Option<String>,
        /// Days until it expires [default: never]
        #[arg(long, value_name = "DAYS")]
        expires_in_days: Option<u32>,
    },
    /// List an account's keys, the oldest first
    List {
        /// Id or e-mail address
        account: String,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Refuse a key from now on
    Revoke {
        /// Id of the key
        key: KeyId,
    },
    /// Make a key that takes the place of another; it is printed this once
    Rotate {
        /// Id of the key that is replaced
        key: KeyId,
        /// How long the old key goes on
        #[arg(long, value_name = "HOURS", default_value_t = keys::OVERLAP_HOURS)]
        overlap_hours: u32,
        /// Days until the new key expires [default: never]
        #[arg(long, value_name = "DAYS")]
        expires_in_days: Option<u32>,
    },
}

#[derive(Subcommand)]
pub enum PlansCommand {
    /// List the catalogue's plans
    List,
    /// Put an account on a plan, from now on
    Assign {
        /// Id or e-mail address
        account: String,
        plan: String,
    },
}

#[derive(Subcommand)]
pub enum LimitsCommand {
    /// Agree a limit with an account, in place of its plan's
    Set {
        /// Id or e-mail address
        account: String,
        usage_type: String,
        /// Units a period
        units: i64,
    },
    /// Go back to the plan's limit
    Clear {
        /// Id or e-mail address
        account: String,
        usage_type: String,
    },
}

#[derive(clap::Args)]
pub struct PageArguments {
    /// Entries at the most [default: 100]
    #[arg(long)]
    limit: Option<u16>,
    /// Go on behind this id
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

pub async fn run(command: &Command, settings: &Settings) -> Result<()> {
    let health = Health::new();
    let connect = service::postgres::connect(&settings.postgres, "billing-worker command", &health);
    let db = timeout(PATIENCE, connect)
        .await
        .map_err(|_| anyhow!("no connection to PostgreSQL (DATABASE_URL) within {PATIENCE:?}"))??;
    if let Command::Migrate = command {
        let version = database::migrate(&db).await?;
        return print::version(settings.json, version);
    }
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
        Command::Stripe(command) => stripe::run(command, &admin, settings).await,
        Command::Notices(command) => notices::run(command, &admin, settings).await,
        Command::Reports(command) => reports::run(command, &admin, settings).await,
        Command::Reconcile(arguments) => reports::reconcile(arguments, &admin, settings).await,
        command => change(command, &admin, settings.json).await,
    };
    done.map_err(explained)
}

async fn change(command: &Command, admin: &Administration, json: bool) -> Result<()> {
    let now = clock::now_s();
    match command {
        Command::Run
        | Command::Migrate
        | Command::Stripe(_)
        | Command::Notices(_)
        | Command::Reports(_)
        | Command::Reconcile(_) => Ok(()),
        Command::Catalogue(CatalogueCommand::Sync) => print::synced(json, plans::sync(admin, now).await?),
        Command::Accounts(command) => account(command, admin, now, json).await,
        Command::Keys(command) => key(command, admin, now, json).await,
        Command::Plans(PlansCommand::List) => print::plans(json, &plans::list(&admin.catalogue)),
        Command::Plans(PlansCommand::Assign { account, plan }) => {
            let account = accounts::find(admin, account).await?;
            print::account(json, &subscriptions::assign(admin, account, plan, now).await?)
        }
        Command::Corrections(command) => trail::correction(command, admin, json).await,
        Command::Audit(command) => trail::audit(command, admin, json).await,
        Command::Runs(command) => runs::run(command, admin, json).await,
        Command::Limits(LimitsCommand::Set {
            account,
            usage_type,
            units,
        }) => {
            let account = accounts::find(admin, account).await?;
            print::account(json, &limits::set(admin, account, usage_type, *units, now).await?)
        }
        Command::Limits(LimitsCommand::Clear { account, usage_type }) => {
            let account = accounts::find(admin, account).await?;
            print::account(json, &limits::clear(admin, account, usage_type, now).await?)
        }
    }
}

async fn account(command: &AccountsCommand, admin: &Administration, now: i64, json: bool) -> Result<()> {
    let find = async |account: &String| -> Result<AccountId> { Ok(accounts::find(admin, account).await?) };
    match command {
        AccountsCommand::Create { name, email, plan } => {
            let new = NewAccount {
                name: name.clone(),
                email: email.clone(),
                plan: plan.clone(),
            };
            print::account(json, &accounts::create(admin, new, now).await?)
        }
        AccountsCommand::List(page) => print::accounts(json, &accounts::list(admin, page.page(), now).await?),
        AccountsCommand::Show { account } => {
            print::account(json, &accounts::show(admin, find(account).await?, now).await?)
        }
        AccountsCommand::Suspend { account } => {
            let id = find(account).await?;
            print::account(json, &accounts::set_status(admin, id, Status::Suspended, now).await?)
        }
        AccountsCommand::Resume { account } => {
            let id = find(account).await?;
            print::account(json, &accounts::set_status(admin, id, Status::Active, now).await?)
        }
    }
}

async fn key(command: &KeysCommand, admin: &Administration, now: i64, json: bool) -> Result<()> {
    match command {
        KeysCommand::Create {
            account,
            name,
            expires_in_days,
        } => {
            let account = accounts::find(admin, account).await?;
            let new = NewKey {
                name: name.clone(),
                expires_in_days: *expires_in_days,
            };
            print::issued(json, &keys::create(admin, account, new, now).await?)
        }
        KeysCommand::List { account, page } => {
            let account = accounts::find(admin, account).await?;
            print::keys(json, &keys::list(admin, account, page.page(), now).await?)
        }
        KeysCommand::Revoke { key } => print::key(json, &keys::revoke(admin, *key, now).await?),
        KeysCommand::Rotate {
            key,
            overlap_hours,
            expires_in_days,
        } => {
            let rotation = Rotation {
                overlap_hours: Some(*overlap_hours),
                expires_in_days: *expires_in_days,
            };
            print::rotated(json, &keys::rotate(admin, *key, rotation, now).await?)
        }
    }
}

impl PageArguments {
    fn page(&self) -> Page {
        Page {
            limit: self.limit,
            after: self.after,
        }
    }
}

/// An error that tells an operator what to do about it, where we know.
fn explained(error: anyhow::Error) -> anyhow::Error {
    // 42P01: undefined table.
    let unmigrated = match error.downcast_ref() {
        Some(Error::Database(sqlx::Error::Database(error))) => error.code().as_deref() == Some("42P01"),
        _ => false,
    };
    match unmigrated {
        true => error.context("the database is not migrated (`billing-worker migrate` does it)"),
        false => error,
    }
}

//! `catalogue …`, `plans …` and `limits …`

mod migrate;

use anyhow::Result;
use clap::Subcommand;
use schema::clock;

use super::print;
use crate::{
    accounts::{
        identity,
        overrides::{self, LimitUnits},
        plans, view,
    },
    administration::Administration,
    config::Settings,
    subscriptions::assign,
};

#[derive(Subcommand)]
pub enum CatalogueCommand {
    /// Copy the catalogue to the database (the service does this when it starts)
    Sync,
}

#[derive(Subcommand)]
pub enum PlansCommand {
    /// List the plans in the catalogue, and all versions of plans
    List,
    /// Assign a plan to an account, effective now
    Assign {
        /// Account id or e-mail address
        account: String,
        plan: String,
    },
    /// Give accounts another version of their plan, or say what each would pay
    Migrate(migrate::MigrateArguments),
}

#[derive(Subcommand)]
pub enum LimitsCommand {
    /// Set a limit for one account; it replaces the limit of the plan. Refused if the plan bills the usage type
    Set {
        /// Account id or e-mail address
        account: String,
        usage_type: String,
        /// Units per period
        #[arg(allow_negative_numbers = true)]
        units: LimitUnits,
    },
    /// Remove an account's own limit; the limit of the plan applies again
    Clear {
        /// Account id or e-mail address
        account: String,
        usage_type: String,
    },
}

pub(super) async fn catalogue(command: &CatalogueCommand, admin: &Administration, json: bool) -> Result<()> {
    let CatalogueCommand::Sync = command;
    print::synced(json, plans::sync(admin, clock::now_s()).await?)
}

pub(super) async fn plans(
    command: &PlansCommand,
    admin: &Administration,
    settings: &Settings,
    json: bool,
) -> Result<()> {
    let now = clock::now_s();
    match command {
        PlansCommand::List => print::plans(json, &plans::with_versions(admin).await?),
        PlansCommand::Migrate(arguments) => migrate::run(arguments, admin, settings, json).await,
        PlansCommand::Assign { account, plan } => {
            let account = identity::find(admin, account).await?;
            assign::assign(admin, account, plan, now).await?;
            print::account(json, &view::show(admin, account, now).await?)
        }
    }
}

pub(super) async fn limits(command: &LimitsCommand, admin: &Administration, json: bool) -> Result<()> {
    let now = clock::now_s();
    let account = match command {
        LimitsCommand::Set {
            account,
            usage_type,
            units,
        } => {
            let account = identity::find(admin, account).await?;
            overrides::set(admin, account, usage_type, *units, now).await?;
            account
        }
        LimitsCommand::Clear { account, usage_type } => {
            let account = identity::find(admin, account).await?;
            overrides::clear(admin, account, usage_type, now).await?;
            account
        }
    };
    print::account(json, &view::show(admin, account, now).await?)
}

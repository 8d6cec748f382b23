//! `corrections …` and `audit …`

use anyhow::{Result, anyhow};
use clap::{ArgGroup, Subcommand};
use nix::unistd::{Uid, User};
use problem::json::Integer;
use schema::EventId;
use uuid::Uuid;

use super::{page::PageArguments, print};
use crate::{
    accounts::identity,
    administration::{Administration, audit, page::Trail},
    corrections::request::{self, NewCorrection, NewTarget},
};

#[derive(Subcommand)]
pub enum CorrectionsCommand {
    /// Lower recorded usage: void events (--void), or lower their units (--cost-units)
    #[command(group = ArgGroup::new("change").required(true).args(["void", "cost_units"]))]
    Create {
        /// Account id or e-mail address
        account: String,
        /// Ids of the events, at most 1000
        #[arg(required = true)]
        events: Vec<EventId>,
        /// The reason, for the audit log
        #[arg(long)]
        reason: String,
        /// Who requests the correction [default: your user name]
        #[arg(long)]
        by: Option<String>,
        /// Void the events: lower them to 0 units
        #[arg(long)]
        void: bool,
        /// New number of units of each event; lower than before
        #[arg(long, value_name = "UNITS", allow_negative_numbers = true)]
        cost_units: Option<Integer<0, { i64::MAX }>>,
        /// Repeat a request safely: the same id corrects nothing twice [default: a new id]
        #[arg(long, value_name = "ID")]
        correction_id: Option<Uuid>,
    },
    /// List corrections, oldest first
    List(TrailArguments),
}

#[derive(Subcommand)]
pub enum AuditCommand {
    /// List administrative changes, oldest first
    List(TrailArguments),
}

#[derive(clap::Args)]
pub struct TrailArguments {
    /// Only this account: account id or e-mail address
    #[arg(long)]
    account: Option<String>,
    #[command(flatten)]
    page: PageArguments,
}

pub(super) async fn correction(command: &CorrectionsCommand, admin: &Administration, json: bool) -> Result<()> {
    match command {
        CorrectionsCommand::Create {
            account,
            events,
            reason,
            by,
            void,
            cost_units,
            correction_id,
        } => {
            let target = |event_id: &EventId| NewTarget {
                event_id: *event_id,
                void: *void,
                cost_units: *cost_units,
            };
            let by = by.clone().or_else(|| admin.name.clone());
            let new = NewCorrection {
                correction_id: correction_id.unwrap_or_else(Uuid::now_v7),
                account_id: identity::find(admin, account).await?,
                reason: reason.clone(),
                by: by.ok_or_else(|| {
                    anyhow!("your user has no name on this machine: say with --by who requests the correction")
                })?,
                events: events.iter().map(target).collect(),
            };
            print::corrected(json, &request::create(admin, new).await?)
        }
        CorrectionsCommand::List(list) => {
            print::corrections(json, &request::list(admin, list.trail(admin).await?).await?)
        }
    }
}

pub(super) async fn audit(command: &AuditCommand, admin: &Administration, json: bool) -> Result<()> {
    let AuditCommand::List(list) = command;
    print::audit(json, &audit::list(&admin.db, list.trail(admin).await?).await?)
}

/// Returns the name of the user who runs the command.
pub(super) fn user() -> Option<String> {
    Some(User::from_uid(Uid::current()).ok()??.name)
}

impl TrailArguments {
    async fn trail(&self, admin: &Administration) -> Result<Trail> {
        let page = self.page.page();
        let account = match &self.account {
            Some(account) => Some(identity::find(admin, account).await?),
            None => None,
        };
        Ok(Trail {
            account,
            limit: page.limit,
            after: page.after,
        })
    }
}

//! `corrections` and `audit`: what was changed afterwards, and by whom.

use anyhow::{Result, anyhow};
use clap::Subcommand;
use nix::unistd::{Uid, User};
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
    /// Lower recorded usage: take events back whole (--void), or lower them to what they should have cost (--cost-units)
    Create {
        /// Id or e-mail address
        account: String,
        /// Ids of events, at most 1000
        #[arg(required = true)]
        events: Vec<EventId>,
        /// Why, for the trail
        #[arg(long)]
        reason: String,
        /// Who asks [default: your user name]
        #[arg(long)]
        by: Option<String>,
        /// Take the events back whole
        #[arg(long, conflicts_with = "cost_units", required_unless_present = "cost_units")]
        void: bool,
        /// Units that each of the events is to have; less than it has
        #[arg(long, value_name = "UNITS")]
        cost_units: Option<i64>,
        /// The same id again corrects nothing more, should you not know whether it worked [default: a new one]
        #[arg(long, value_name = "ID")]
        correction_id: Option<Uuid>,
    },
    /// List corrections, the oldest first
    List(TrailArguments),
}

#[derive(Subcommand)]
pub enum AuditCommand {
    /// List administrative changes, the oldest first
    List(TrailArguments),
}

#[derive(clap::Args)]
pub struct TrailArguments {
    /// Of one account: id or e-mail address
    #[arg(long)]
    account: Option<String>,
    #[command(flatten)]
    page: PageArguments,
}

pub async fn correction(command: &CorrectionsCommand, admin: &Administration, json: bool) -> Result<()> {
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
                by: by.ok_or_else(|| anyhow!("your user has no name here: say who asks with --by"))?,
                events: events.iter().map(target).collect(),
            };
            print::corrected(json, &request::create(admin, new).await?)
        }
        CorrectionsCommand::List(list) => {
            print::corrections(json, &request::list(admin, list.trail(admin).await?).await?)
        }
    }
}

pub async fn audit(command: &AuditCommand, admin: &Administration, json: bool) -> Result<()> {
    let AuditCommand::List(list) = command;
    print::audit(json, &audit::list(&admin.db, list.trail(admin).await?).await?)
}

/// The name of whoever runs the command.
pub fn user() -> Option<String> {
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

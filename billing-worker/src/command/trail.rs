//! `audit`: what was changed, and by whom.

use anyhow::Result;
use clap::Subcommand;
use nix::unistd::{Uid, User};

use super::{PageArguments, print};
use crate::{accounts, administration::Administration, audit, page::Trail};

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
            Some(account) => Some(accounts::find(admin, account).await?),
            None => None,
        };
        Ok(Trail {
            account,
            limit: page.limit,
            after: page.after,
        })
    }
}

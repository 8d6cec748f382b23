//! `accounts …`

use anyhow::Result;
use clap::Subcommand;
use schema::clock;

use super::{page::PageArguments, print};
use crate::{
    accounts::{
        create::{self, NewAccount},
        identity,
        status::{self, AccountStatus},
        view,
    },
    administration::Administration,
};

#[derive(Subcommand)]
pub enum AccountsCommand {
    /// Create an account
    Create {
        #[arg(long)]
        name: String,
        #[arg(long)]
        email: String,
        /// Plan that the account starts with [default: free]
        #[arg(long)]
        plan: Option<String>,
    },
    /// List accounts, oldest first
    List(PageArguments),
    /// Show an account with its plan and limits
    Show {
        /// Account id or e-mail address
        account: String,
    },
    /// Refuse every metered call of an account
    Suspend {
        /// Account id or e-mail address
        account: String,
    },
    /// End a suspension
    Resume {
        /// Account id or e-mail address
        account: String,
    },
}

pub(super) async fn run(command: &AccountsCommand, admin: &Administration, json: bool) -> Result<()> {
    let now = clock::now_s();
    let account = match command {
        AccountsCommand::List(page) => return print::accounts(json, &view::list(admin, page.page(), now).await?),
        AccountsCommand::Create { name, email, plan } => {
            let new = NewAccount {
                name: name.clone(),
                email: email.clone(),
                plan: plan.clone(),
            };
            create::create(admin, new, now).await?
        }
        AccountsCommand::Show { account } => identity::find(admin, account).await?,
        AccountsCommand::Suspend { account } => {
            let account = identity::find(admin, account).await?;
            status::set_status(admin, account, AccountStatus::Suspended).await?;
            account
        }
        AccountsCommand::Resume { account } => {
            let account = identity::find(admin, account).await?;
            status::set_status(admin, account, AccountStatus::Active).await?;
            account
        }
    };
    print::account(json, &view::show(admin, account, now).await?)
}

//! `accounts …`

use anyhow::Result;
use clap::Subcommand;
use schema::clock;

use super::{page::PageArguments, print, stripe};
use crate::{
    accounts::{
        create::{self, NewAccount},
        identity,
        link::{self, Earlier},
        status::{self, AccountStatus},
        view,
    },
    administration::Administration,
    config::Settings,
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
    /// Link an account to a customer that exists in Stripe, with the subscriptions that the customer has
    LinkStripe {
        /// Account id or e-mail address
        account: String,
        /// Id of the customer, cus_…
        customer: String,
        /// Replace the account's other customer, or the other account in the customer's metadata
        #[arg(long)]
        replace: bool,
    },
}

pub(super) async fn run(
    command: &AccountsCommand,
    admin: &Administration,
    settings: &Settings,
    json: bool,
) -> Result<()> {
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
        AccountsCommand::LinkStripe {
            account,
            customer,
            replace,
        } => {
            let account = identity::find(admin, account).await?;
            let earlier = if *replace { Earlier::Replaced } else { Earlier::Kept };
            link::link(&stripe::billing(admin, settings)?, account, customer, earlier).await?;
            account
        }
    };
    print::account(json, &view::show(admin, account, now).await?)
}

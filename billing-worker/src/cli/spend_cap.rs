//! `spend-cap …`

use anyhow::Result;
use clap::Subcommand;
use schema::clock;

use super::print;
use crate::{
    accounts::identity,
    administration::Administration,
    spend_caps::cap::{self, Cents, NewCap},
};

#[derive(Subcommand)]
pub enum SpendCapCommand {
    /// Show the cap of an account, and what it has used
    Show {
        /// Account id or e-mail address
        account: String,
    },
    /// Set the cap. The service tells the gateways within a second or two
    Set {
        /// Account id or e-mail address
        account: String,
        /// In the smallest unit of the currency, for each period
        #[arg(allow_negative_numbers = true)]
        cents: Cents,
    },
    /// Remove the cap; from then on only the limits of the plan apply
    Clear {
        /// Account id or e-mail address
        account: String,
    },
}

pub(super) async fn run(command: &SpendCapCommand, admin: &Administration, json: bool) -> Result<()> {
    let now = clock::now_s();
    let account = match command {
        SpendCapCommand::Show { account } => identity::find(admin, account).await?,
        SpendCapCommand::Set { account, cents } => {
            let account = identity::find(admin, account).await?;
            cap::set(admin, account, NewCap { cents: *cents }, now).await?;
            account
        }
        SpendCapCommand::Clear { account } => {
            let account = identity::find(admin, account).await?;
            cap::remove(admin, account).await?;
            account
        }
    };
    print::spend_cap(json, &cap::show(admin, account, now).await?)
}

//! `keys …`

use anyhow::Result;
use clap::Subcommand;
use schema::{KeyId, Scope, clock};

use super::{page::PageArguments, print};
use crate::{
    accounts::{
        identity,
        keys::{self, ExpiresInDays, NewKey, OverlapHours, Rotation, ScopeChange},
    },
    administration::Administration,
};

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Create a key; it is printed only once
    Create {
        /// Account id or e-mail address
        account: String,
        /// Name of the key [default: default]
        #[arg(long)]
        name: Option<String>,
        /// Days until the key expires [default: never]
        #[arg(long, value_name = "DAYS")]
        expires_in_days: Option<ExpiresInDays>,
        /// What the key allows: usage (calls) or billing (changes of the subscription); may be given twice [default: usage]
        #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
        scope: Vec<Scope>,
    },
    /// List an account's keys, oldest first
    List {
        /// Account id or e-mail address
        account: String,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Revoke a key, effective now
    Revoke {
        /// Id of the key
        key: KeyId,
    },
    /// Create a key that replaces another; it is printed only once
    Rotate {
        /// Id of the key to replace
        key: KeyId,
        /// Hours until the old key stops working
        #[arg(long, value_name = "HOURS", default_value_t = keys::OVERLAP_HOURS)]
        overlap_hours: OverlapHours,
        /// Days until the new key expires [default: never]
        #[arg(long, value_name = "DAYS")]
        expires_in_days: Option<ExpiresInDays>,
    },
    /// Change what a key allows, effective now
    Scope {
        /// Id of the key
        key: KeyId,
        /// Scope that the key gets: usage or billing
        #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
        add: Vec<Scope>,
        /// Scope that the key loses: usage or billing
        #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
        remove: Vec<Scope>,
    },
}

pub(super) async fn run(command: &KeysCommand, admin: &Administration, json: bool) -> Result<()> {
    let now = clock::now_s();
    match command {
        KeysCommand::Create {
            account,
            name,
            expires_in_days,
            scope,
        } => {
            let account = identity::find(admin, account).await?;
            let new = NewKey {
                name: name.clone(),
                expires_in_days: *expires_in_days,
                scopes: Some(scope.clone()).filter(|scopes| !scopes.is_empty()),
            };
            print::issued(json, &keys::create(admin, account, new, now).await?)
        }
        KeysCommand::List { account, page } => {
            let account = identity::find(admin, account).await?;
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
        KeysCommand::Scope { key, add, remove } => {
            let change = ScopeChange {
                add: add.clone(),
                remove: remove.clone(),
            };
            print::key(json, &keys::change_scopes(admin, *key, change, now).await?)
        }
    }
}

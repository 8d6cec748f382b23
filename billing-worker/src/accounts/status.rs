//! Suspends and resumes accounts.

use schema::{AccountId, announcement::Announcement};
use serde::Serialize;
use serde_json::json;
use sqlx::{Postgres, Transaction};
use tracing::info;

use crate::{
    administration::{Administration, audit},
    error::Error,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    Active,
    /// Every metered call is refused.
    Suspended,
}

/// Suspends or resumes an account. Does nothing if the account has that status already, or does not exist.
pub async fn set_status(admin: &Administration, id: AccountId, status: AccountStatus) -> Result<(), Error> {
    let mut tx = admin.db.begin().await?;
    if set(&mut tx, admin, id, status).await? {
        tx.commit().await?;
        announce(admin, id, status).await;
    }
    Ok(())
}

/// The same in a transaction of the caller. Returns whether it changed; then the caller commits and calls [`announce`].
pub async fn set(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    id: AccountId,
    status: AccountStatus,
) -> Result<bool, Error> {
    let changed = sqlx::query!(
        "update accounts set status = $2, updated_at = now() where id = $1 and status <> $2",
        id.0,
        status.as_str()
    )
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if changed > 0 {
        let entry = audit::Entry {
            action: match status {
                AccountStatus::Active => "account.resume",
                AccountStatus::Suspended => "account.suspend",
            },
            account: Some(id),
            subject: id.to_string(),
            details: json!({}),
            actor: admin.actor(),
        };
        audit::record(tx, entry).await?;
    }
    Ok(changed > 0)
}

/// Lets the gateways know.
pub async fn announce(admin: &Administration, id: AccountId, status: AccountStatus) {
    info!(account.id = %id, status = status.as_str(), by = %admin.by, "changed an account's status");
    let announcement = Announcement::AccountChanged { account_id: id };
    admin.announcer.announce(announcement).await;
}

impl AccountStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

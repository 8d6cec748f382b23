//! The audit log: who changed what. An entry is written in the transaction of its change, so it exists exactly if the change
//! was committed. Details contain values, never secrets.

use schema::AccountId;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    administration::{
        Administration, By,
        page::{Listed, Trail},
    },
    error::Error,
};

/// One change, about to be committed.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Such as `account.suspend`.
    pub action: &'static str,
    /// `None`: the change concerns all accounts.
    pub account: Option<AccountId>,
    /// The changed object: an id, a usage type, a plan.
    pub subject: String,
    /// The new values.
    pub details: Value,
    pub actor: Actor<'a>,
}

/// Who made the change: the interface that it came through, and the given name.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    pub by: By,
    pub name: Option<&'a str>,
}

/// A change in the list.
#[derive(Clone, Debug, Serialize)]
pub struct Audited {
    pub id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub actor: String,
    pub actor_name: Option<String>,
    pub action: String,
    pub account_id: Option<AccountId>,
    pub subject: String,
    pub details: Value,
}

/// Writes an entry about an account that is itself the subject.
pub async fn record_of_account(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    account: AccountId,
    action: &'static str,
    details: Value,
) -> Result<(), Error> {
    let entry = Entry {
        action,
        account: Some(account),
        subject: account.to_string(),
        details,
        actor: admin.actor(),
    };
    record(tx, entry).await
}

/// Writes an entry into the transaction of the change.
pub async fn record(tx: &mut Transaction<'_, Postgres>, entry: Entry<'_>) -> Result<(), Error> {
    sqlx::query!(
        "insert into audit_log (id, actor, actor_name, action, account_id, subject, details)
         values ($1, $2, $3, $4, $5, $6, $7)",
        Uuid::now_v7(),
        entry.actor.by.to_string(),
        entry.actor.name,
        entry.action,
        entry.account.map(|account| account.0),
        entry.subject,
        entry.details
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Lists changes, oldest first.
pub async fn list(db: &PgPool, trail: Trail) -> Result<Listed<Audited>, Error> {
    let page = trail.page();
    let rows = sqlx::query!(
        "select id, at, actor, actor_name, action, account_id, subject, details from audit_log
         where ($1::uuid is null or account_id = $1) and id > $2 order by id limit $3",
        trail.account.map(|account| account.0),
        page.after.unwrap_or(Uuid::nil()),
        page.rows()
    )
    .fetch_all(db)
    .await?;
    let audited = rows.into_iter().map(|row| Audited {
        id: row.id,
        at: row.at,
        actor: row.actor,
        actor_name: row.actor_name,
        action: row.action,
        account_id: row.account_id.map(AccountId),
        subject: row.subject,
        details: row.details,
    });
    Ok(page.cut(audited.collect(), |audited: &Audited| audited.id))
}

impl Administration {
    pub fn actor(&self) -> Actor<'_> {
        Actor {
            by: self.by,
            name: self.name.as_deref(),
        }
    }
}

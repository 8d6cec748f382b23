//! Creates accounts.

use schema::{AccountId, announcement::Announcement};
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use super::identity::{checked_email, checked_name};
use crate::{
    administration::{Administration, audit},
    error::{Error, violated},
    subscriptions::assign,
};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    pub name: String,
    pub email: String,
    /// `None`: the Free plan.
    pub plan: Option<String>,
}

/// Creates an account. An e-mail address belongs to one account; letter case does not matter.
pub async fn create(admin: &Administration, new: NewAccount, now: i64) -> Result<AccountId, Error> {
    let name = checked_name("name", &new.name)?;
    let email = checked_email(&new.email)?;
    if let Some(plan) = &new.plan {
        admin.plan(plan)?;
    }
    let id = AccountId::new();
    let mut tx = admin.db.begin().await?;
    sqlx::query!(
        "insert into accounts (id, name, email) values ($1, $2, $3)",
        id.0,
        name,
        email
    )
    .execute(&mut *tx)
    .await
    .map_err(|error| match violated(&error) {
        Some("accounts_email") => Error::EmailTaken(email.to_owned()),
        _ => Error::Database(error),
    })?;
    let entry = audit::Entry {
        action: "account.create",
        account: Some(id),
        subject: id.to_string(),
        details: json!({ "name": name, "email": email }),
        actor: admin.actor(),
    };
    audit::record(&mut tx, entry).await?;
    if let Some(plan) = &new.plan {
        assign::assign_locked(&mut tx, admin, id, plan, now).await?;
    }
    tx.commit().await?;
    let plan = new.plan.as_deref();
    info!(account.id = %id, plan, by = %admin.by, "created an account");
    admin
        .announcer
        .announce(Announcement::AccountChanged { account_id: id })
        .await;
    Ok(id)
}

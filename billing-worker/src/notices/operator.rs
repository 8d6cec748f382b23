//! Notices for operators: list them, replay one, send a test.

use schema::AccountId;
use serde::Serialize;
use serde_json::json;
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use super::{
    endpoint,
    message::{self, Kind, NoticeId},
};
use crate::{
    administration::{
        Administration, audit,
        page::{Listed, Page},
    },
    error::Error,
};

#[derive(Clone, Debug, Serialize)]
pub struct Notice {
    /// The `webhook-id`.
    pub id: NoticeId,
    pub account_id: AccountId,
    #[serde(rename = "type")]
    pub kind: String,
    /// This and the next two fields are `None` in a test notice.
    pub usage_type: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub period_start: Option<OffsetDateTime>,
    pub threshold_percent: Option<i32>,
    /// `pending`, `delivered`, `failed` or `unaddressed`.
    pub state: String,
    /// Since the notice was created or replayed.
    pub attempts: i32,
    /// Only while the notice is pending.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    pub last_error: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub delivered_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Lists an account's notices, oldest first.
pub async fn list(admin: &Administration, account: AccountId, page: Page) -> Result<Listed<Notice>, Error> {
    let known = sqlx::query_scalar!("select id from accounts where id = $1", account.0);
    if known.fetch_optional(&admin.db).await?.is_none() {
        return Err(Error::UnknownAccount(account.to_string()));
    }
    let rows = sqlx::query_as!(
        Notice,
        r#"select id, account_id, kind, usage_type, period_start, threshold_percent, state, attempts,
                  case when state = 'pending' then next_attempt_at end as next_attempt_at, last_error, delivered_at, created_at
           from notices where account_id = $1 and id > $2 order by id limit $3"#,
        account.0,
        page.after.unwrap_or(Uuid::nil()),
        page.rows()
    )
    .fetch_all(&admin.db)
    .await?;
    Ok(page.cut(rows, |notice: &Notice| notice.id.0))
}

/// Sends a notice again under the same id, starting with the first attempt. A receiver that already has it drops it.
pub async fn replay(admin: &Administration, id: NoticeId) -> Result<Notice, Error> {
    let unknown = || Error::UnknownNotice(id.to_string());
    let mut tx = admin.db.begin().await?;
    let account = sqlx::query_scalar!("select account_id from notices where id = $1", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .map(AccountId)
        .ok_or_else(unknown)?;
    if !endpoint::lock(&mut tx, account).await? {
        return Err(Error::NoticeEndpointDisabled(account.to_string()));
    }
    let notice = sqlx::query_as!(
        Notice,
        "update notices set state = 'pending', attempts = 0, next_attempt_at = now() where id = $1
         returning id, account_id, kind, usage_type, period_start, threshold_percent, state, attempts,
                   next_attempt_at, last_error, delivered_at, created_at",
        id.0
    )
    .fetch_one(&mut *tx)
    .await?;
    record(&mut tx, admin, &notice, "notice.replay").await?;
    tx.commit().await?;
    info!(account.id = %account, notice.id = %id, by = %admin.by, "replayed a notice");
    Ok(notice)
}

/// Sends a test notice. It is delivered and retried like any other.
pub async fn test(admin: &Administration, account: AccountId, now: i64) -> Result<Notice, Error> {
    let mut tx = admin.db.begin().await?;
    if !endpoint::lock(&mut tx, account).await? {
        return Err(Error::NoticeEndpointDisabled(account.to_string()));
    }
    let notice = sqlx::query_as!(
        Notice,
        "insert into notices (id, account_id, kind, body, state) values ($1, $2, $3, $4, 'pending')
         returning id, account_id, kind, usage_type, period_start, threshold_percent, state, attempts,
                   next_attempt_at, last_error, delivered_at, created_at",
        NoticeId::new().0,
        account.0,
        Kind::Test.as_str(),
        message::test(account, now)
    )
    .fetch_one(&mut *tx)
    .await?;
    record(&mut tx, admin, &notice, "notice.test").await?;
    tx.commit().await?;
    info!(account.id = %account, notice.id = %notice.id, by = %admin.by, "queued a test notice");
    Ok(notice)
}

async fn record(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    notice: &Notice,
    action: &'static str,
) -> Result<(), Error> {
    let entry = audit::Entry {
        action,
        account: Some(notice.account_id),
        subject: notice.id.to_string(),
        details: json!({ "kind": notice.kind }),
        actor: admin.actor(),
    };
    audit::record(tx, entry).await
}

//! Reports for an operator: lists, and retrying a parked report.

use schema::{AccountId, period::instant};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use crate::{
    administration::{
        Administration, audit,
        page::{Listed, Page},
    },
    error::Error,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ReportState {
    Open,
    Delivered,
    Withdrawn,
    Parked,
}

#[derive(Clone, Debug, Serialize)]
pub struct ReportView {
    pub id: Uuid,
    pub identifier: String,
    pub account_id: AccountId,
    pub customer_id: String,
    pub usage_type: String,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    pub from_units: i64,
    pub to_units: i64,
    pub state: String,
    pub attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_attempt_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub next_attempt_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub done_at: Option<OffsetDateTime>,
    pub error: Option<String>,
}

impl ReportState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Delivered => "delivered",
            Self::Withdrawn => "withdrawn",
            Self::Parked => "parked",
        }
    }
}

/// The oldest first.
pub async fn list(db: &PgPool, state: Option<ReportState>, page: Page) -> Result<Listed<ReportView>, Error> {
    let reports = sqlx::query_as!(
        ReportView,
        r#"select id, identifier, account_id as "account_id: Uuid", customer_id, usage_type, period_start, from_units, to_units,
                  state, attempts, created_at, last_attempt_at, next_attempt_at, done_at, error
           from meter_reports where ($1::text is null or state = $1) and ($2::uuid is null or id > $2) order by id limit $3"#,
        state.map(ReportState::as_str),
        page.after,
        page.rows()
    )
    .fetch_all(db)
    .await?;
    Ok(page.cut(reports, |report| report.id))
}

/// Lets the next step send a parked report again. Its identifier stays the same.
pub async fn retry(admin: &Administration, identifier: &str, now: i64) -> Result<ReportView, Error> {
    let mut tx = admin.db.begin().await?;
    let report = sqlx::query_as!(
        ReportView,
        r#"update meter_reports set state = 'open', next_attempt_at = $2, claimed_until = null
           where identifier = $1 and state = 'parked'
           returning id, identifier, account_id as "account_id: Uuid", customer_id, usage_type, period_start, from_units,
               to_units, state, attempts, created_at, last_attempt_at, next_attempt_at, done_at, error"#,
        identifier,
        instant(now)
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(report) = report {
        let entry = audit::Entry {
            action: "report.retry",
            account: Some(report.account_id),
            subject: identifier.to_owned(),
            details: json!({ "units": report.to_units - report.from_units, "error": report.error }),
            actor: admin.actor(),
        };
        audit::record(&mut tx, entry).await?;
        tx.commit().await?;
        info!(report.identifier = identifier, by = %admin.by, "a parked report will be sent again");
        return Ok(report);
    }
    let state = sqlx::query_scalar!("select state from meter_reports where identifier = $1", identifier)
        .fetch_optional(&mut *tx)
        .await?;
    Err(match state {
        Some(state) => Error::ReportNotParked {
            identifier: identifier.to_owned(),
            state,
        },
        None => Error::UnknownReport(identifier.to_owned()),
    })
}

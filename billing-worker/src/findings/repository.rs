//! The rows of findings.

use schema::AccountId;
use serde::Serialize;
use sqlx::{PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::finding::{Finding, FindingKind};
use crate::error::Error;

/// An open finding, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindingView {
    pub kind: String,
    pub account_id: AccountId,
    /// Id of the object in Stripe that has it.
    pub subject: String,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub remedy: String,
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
}

/// Stores what was found at an account. Opens new findings, and resolves open ones of these kinds that were not found again.
/// Returns the findings that were opened.
pub async fn store<'a>(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    kinds: &[FindingKind],
    found: &'a [Finding],
) -> Result<Vec<&'a Finding>, Error> {
    let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
    let (open_kinds, open_subjects): (Vec<_>, Vec<_>) = found
        .iter()
        .map(|finding| (finding.kind.as_str().to_owned(), finding.subject.clone()))
        .unzip();
    sqlx::query!(
        "update findings set resolved_at = now()
         where account_id = $1 and resolved_at is null and kind = any($2)
             and (kind, subject) not in (select * from unnest($3::text[], $4::text[]))",
        account.0,
        &kinds,
        &open_kinds,
        &open_subjects
    )
    .execute(&mut **tx)
    .await?;
    let mut opened = Vec::new();
    for finding in found {
        let is_new = sqlx::query_scalar!(
            r#"insert into findings as f (kind, subject, account_id, text, remedy) values ($1, $2, $3, $4, $5)
               on conflict (kind, subject) do update set account_id = excluded.account_id, text = excluded.text,
                   remedy = excluded.remedy, last_seen_at = now(), resolved_at = null,
                   first_seen_at = case when f.resolved_at is null then f.first_seen_at else now() end
               returning f.first_seen_at = now() as "is_new!""#,
            finding.kind.as_str(),
            finding.subject,
            account.0,
            finding.text,
            finding.kind.remedy()
        )
        .fetch_one(&mut **tx)
        .await?;
        if is_new {
            opened.push(finding);
        }
    }
    Ok(opened)
}

/// All that are open, the oldest first.
pub async fn list(db: &PgPool, max: i64) -> Result<Vec<FindingView>, Error> {
    let open = sqlx::query_as!(
        FindingView,
        r#"select kind, account_id as "account_id: Uuid", subject, text, remedy, first_seen_at, last_seen_at
           from findings where resolved_at is null order by first_seen_at, kind, subject limit $1"#,
        max
    )
    .fetch_all(db)
    .await?;
    Ok(open)
}

/// How many are open, of each kind.
pub async fn counts(db: &PgPool) -> Result<Vec<(String, i64)>, Error> {
    let counts =
        sqlx::query!(r#"select kind, count(*) as "count!" from findings where resolved_at is null group by kind"#)
            .fetch_all(db)
            .await?;
    Ok(counts.into_iter().map(|row| (row.kind, row.count)).collect())
}

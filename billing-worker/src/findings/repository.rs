//! The rows of findings.

use schema::AccountId;
use serde::Serialize;
use sqlx::{PgPool, Postgres, Transaction};
use time::OffsetDateTime;

use super::finding::{Finding, FindingKind};
use crate::error::Error;

/// An open finding, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindingView {
    pub kind: String,
    /// `None`: the customer in Stripe belongs to no account.
    pub account_id: Option<AccountId>,
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

/// Stores the findings about an account: opens new ones, and resolves those of these kinds that are gone.
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
        if open(tx, Some(account), finding).await? {
            opened.push(finding);
        }
    }
    Ok(opened)
}

/// Opens a finding, or says that it is still open. Returns whether it is new.
pub async fn open(
    tx: &mut Transaction<'_, Postgres>,
    account: Option<AccountId>,
    finding: &Finding,
) -> Result<bool, Error> {
    let is_new = sqlx::query_scalar!(
        r#"insert into findings as f (kind, subject, account_id, text, remedy) values ($1, $2, $3, $4, $5)
           on conflict (kind, subject) do update set account_id = excluded.account_id, text = excluded.text,
               remedy = excluded.remedy, last_seen_at = now(), resolved_at = null,
               first_seen_at = case when f.resolved_at is null then f.first_seen_at else now() end
           returning f.first_seen_at = now() as "is_new!""#,
        finding.kind.as_str(),
        finding.subject,
        account.map(|account| account.0),
        finding.text,
        finding.remedy()
    );
    Ok(is_new.fetch_one(&mut **tx).await?)
}

/// The finding is gone.
pub async fn resolve(tx: &mut Transaction<'_, Postgres>, kind: FindingKind, subject: &str) -> Result<(), Error> {
    sqlx::query!(
        "update findings set resolved_at = now() where kind = $1 and subject = $2 and resolved_at is null",
        kind.as_str(),
        subject
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The subjects of a kind's open findings, the oldest first.
pub async fn subjects(db: &PgPool, kind: FindingKind, max: i64) -> Result<Vec<String>, Error> {
    let subjects = sqlx::query_scalar!(
        "select subject from findings where kind = $1 and resolved_at is null order by first_seen_at limit $2",
        kind.as_str(),
        max
    );
    Ok(subjects.fetch_all(db).await?)
}

/// All that are open, the oldest first.
pub async fn list(db: &PgPool, max: i64) -> Result<Vec<FindingView>, Error> {
    let open = sqlx::query!(
        "select kind, account_id, subject, text, remedy, first_seen_at, last_seen_at
         from findings where resolved_at is null order by first_seen_at, kind, subject limit $1",
        max
    )
    .fetch_all(db)
    .await?;
    let open = open.into_iter().map(|row| FindingView {
        kind: row.kind,
        account_id: row.account_id.map(AccountId),
        subject: row.subject,
        text: row.text,
        remedy: row.remedy,
        first_seen_at: row.first_seen_at,
        last_seen_at: row.last_seen_at,
    });
    Ok(open.collect())
}

/// How many are open, of each kind.
pub async fn counts(db: &PgPool) -> Result<Vec<(String, i64)>, Error> {
    let counts =
        sqlx::query!(r#"select kind, count(*) as "count!" from findings where resolved_at is null group by kind"#)
            .fetch_all(db)
            .await?;
    Ok(counts.into_iter().map(|row| (row.kind, row.count)).collect())
}

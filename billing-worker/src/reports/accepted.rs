//! Differences of money that the checks found, and those that an operator has settled and accepted. An accepted difference is shown,
//! and is no alarm while its amount stays the same.

use std::collections::HashMap;

use schema::{AccountId, period::instant};
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::{
    administration::{Administration, audit},
    error::Error,
};

/// A difference that needs an operator.
#[derive(Clone, Debug, Serialize)]
pub struct DifferenceView {
    pub account_id: AccountId,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    pub currency: String,
    /// Invoiced too much. Negative: too little.
    pub difference_cents: i64,
    /// One sentence each.
    pub differences: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub checked_at: OffsetDateTime,
}

/// What an operator said about a difference.
#[derive(Clone, Debug, Serialize)]
pub struct Accepted {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub reason: String,
    pub difference_cents: i64,
}

/// Differences that nobody has accepted, the oldest first.
pub async fn open(db: &PgPool, max: i64) -> Result<Vec<DifferenceView>, Error> {
    let differences = sqlx::query_as!(
        DifferenceView,
        r#"select account_id as "account_id: uuid::Uuid", period_start, currency, difference as difference_cents, differences, checked_at
           from money_checks where state = 'difference' and accepted_difference is distinct from difference
           order by period_start, account_id limit $1"#,
        max
    );
    Ok(differences.fetch_all(db).await?)
}

/// The accepted differences of these segments.
pub(super) async fn read(
    db: &PgPool,
    periods: &[(AccountId, i64)],
) -> sqlx::Result<HashMap<(AccountId, i64), Accepted>> {
    let (accounts, starts): (Vec<_>, Vec<_>) = periods.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let rows = sqlx::query!(
        r#"select m.account_id, m.period_start, m.accepted_at as "at!", m.accepted_reason as "reason!",
                  m.accepted_difference as "difference!"
           from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)
               join money_checks m on m.account_id = p.account_id and m.period_start = p.period_start
           where m.accepted_at is not null"#,
        &accounts,
        &starts
    )
    .fetch_all(db)
    .await?;
    let accepted = rows.into_iter().map(|row| {
        let accepted = Accepted {
            at: row.at,
            reason: row.reason,
            difference_cents: row.difference,
        };
        ((AccountId(row.account_id), row.period_start.unix_timestamp()), accepted)
    });
    Ok(accepted.collect())
}

/// An operator has settled the difference of the segment that begins then.
pub async fn accept(
    admin: &Administration,
    account: AccountId,
    period_start: OffsetDateTime,
    reason: &str,
) -> Result<DifferenceView, Error> {
    let mut tx = admin.db.begin().await?;
    let accepted = sqlx::query_as!(
        DifferenceView,
        r#"update money_checks set accepted_difference = difference, accepted_at = now(), accepted_reason = $3
           where account_id = $1 and period_start = $2 and state = 'difference'
           returning account_id as "account_id: uuid::Uuid", period_start, currency, difference as difference_cents, differences,
               checked_at"#,
        account.0,
        period_start,
        reason
    )
    .fetch_optional(&mut *tx)
    .await?;
    let accepted = accepted.ok_or_else(|| {
        Error::Conflict(
            "no check of money has found a difference in a period of this account that begins then: `billing-worker reports \
             attention` shows the differences"
                .to_owned(),
        )
    })?;
    let details = json!({
        "period_start": accepted.period_start.unix_timestamp(), "difference_cents": accepted.difference_cents,
        "currency": accepted.currency, "reason": reason,
    });
    audit::record_of_account(&mut tx, admin, account, "money.accept", details).await?;
    tx.commit().await?;
    Ok(accepted)
}

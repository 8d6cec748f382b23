//! Which pool the usage of a segment belongs to. Usage is stamped with its segment, a part of a period with one set of usage
//! prices; a pool is for the whole period. Only segments that began within a period have a period other than themselves.

use std::collections::{HashMap, HashSet};

use schema::{AccountId, period::instant};
use sqlx::PgExecutor;

/// A segment, or a period: the account and the first second, since the Unix epoch.
pub type Segment = (AccountId, i64);

/// The period of each of these segments that began within one. The others are periods.
pub async fn periods(db: impl PgExecutor<'_>, segments: &[Segment]) -> sqlx::Result<HashMap<Segment, i64>> {
    let (accounts, starts): (Vec<_>, Vec<_>) = segments.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let rows = sqlx::query!(
        r#"select p.account_id, p.period_start, p.quota_start as "quota_start!"
           from (select distinct * from unnest($1::uuid[], $2::timestamptz[]) as s (account_id, period_start)) as s
               join billing_periods p using (account_id, period_start)
           where p.quota_start is not null"#,
        &accounts,
        &starts
    )
    .fetch_all(db)
    .await?;
    let periods = rows.into_iter().map(|row| {
        let segment = (AccountId(row.account_id), row.period_start.unix_timestamp());
        (segment, row.quota_start.unix_timestamp())
    });
    Ok(periods.collect())
}

/// Usage of these segments is billed by the unit, so it does not count towards a limit: the account, the segment, the usage type.
pub async fn billed(
    db: impl PgExecutor<'_>,
    accounts: &[AccountId],
    since: i64,
) -> sqlx::Result<HashSet<(AccountId, i64, String)>> {
    let rows = sqlx::query!(
        "select account_id, period_start, usage_type from segment_prices where account_id = any($1) and period_start >= $2",
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(since)
    )
    .fetch_all(db)
    .await?;
    let billed = rows.into_iter().map(|row| {
        let start = row.period_start.unix_timestamp();
        (AccountId(row.account_id), start, row.usage_type)
    });
    Ok(billed.collect())
}

/// The segments of these accounts that began within a period, from `since` on, and the period of each.
pub async fn within(
    db: impl PgExecutor<'_>,
    accounts: &[AccountId],
    since: i64,
) -> sqlx::Result<HashMap<Segment, i64>> {
    let rows = sqlx::query!(
        r#"select account_id, period_start, quota_start as "quota_start!" from billing_periods
           where account_id = any($1) and quota_start >= $2"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(since)
    )
    .fetch_all(db)
    .await?;
    let segments = rows.into_iter().map(|row| {
        let segment = (AccountId(row.account_id), row.period_start.unix_timestamp());
        (segment, row.quota_start.unix_timestamp())
    });
    Ok(segments.collect())
}

//! Corrections, and credits that were carried into a line. They may explain why a line has fewer units than were reported.

use std::collections::HashMap;

use protocol::reports::identifier::LineId;
use schema::period::instant;
use sqlx::PgExecutor;

use super::count::AccountPeriod;

/// Both 0 or negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credits {
    pub corrections: i64,
    pub carried: i64,
}

impl Credits {
    pub fn total(&self) -> i64 {
        self.corrections.saturating_add(self.carried)
    }
}

/// The credits of all lines of these periods. PostgreSQL has a correction before ClickHouse can have it, and keeps it after
/// retention deletes it from ClickHouse.
pub async fn read(db: impl PgExecutor<'_>, periods: &[AccountPeriod]) -> sqlx::Result<HashMap<LineId, Credits>> {
    if periods.is_empty() {
        return Ok(HashMap::new());
    }
    let (accounts, starts): (Vec<_>, Vec<_>) = periods.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let rows = sqlx::query!(
        r#"with p as (select distinct * from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)),
           credits as (
               select c.account_id, c.period_start, c.usage_type, c.delta_units as corrections, 0::bigint as carried
               from p join corrections c on c.account_id = p.account_id and c.period_start = p.period_start
               union all
               select c.account_id, c.to_period, c.usage_type, 0, c.units
               from p join meter_carries c on c.account_id = p.account_id and c.to_period = p.period_start
               where c.units < 0
           )
           select account_id as "account_id!", period_start as "period_start!", usage_type as "usage_type!",
                  sum(corrections)::bigint as "corrections!", sum(carried)::bigint as "carried!"
           from credits group by account_id, period_start, usage_type"#,
        &accounts,
        &starts
    )
    .fetch_all(db)
    .await?;
    let credits = rows.into_iter().map(|row| {
        let credits = Credits {
            corrections: row.corrections,
            carried: row.carried,
        };
        (
            LineId::of_row(row.account_id, row.period_start, row.usage_type),
            credits,
        )
    });
    Ok(credits.collect())
}

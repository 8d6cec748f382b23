//! Late units that are billed apart from their segment, or wait for it.

use std::collections::HashMap;

use protocol::reports::identifier::LineId;
use schema::{AccountId, period::instant};
use sqlx::PgPool;

/// A row of `meter_carries` whose units are in no other period.
#[derive(Clone, Debug)]
pub(super) struct StoredLate {
    pub units: i64,
    pub before: Option<i64>,
    pub amount: i64,
    pub is_settled: bool,
    /// It is an invoice item.
    pub is_item: bool,
    pub notes: Vec<String>,
    pub why: Option<String>,
    /// When it was billed, or else found.
    pub at: i64,
}

pub(super) async fn read(db: &PgPool, periods: &[(AccountId, i64)]) -> sqlx::Result<HashMap<LineId, Vec<StoredLate>>> {
    let (accounts, starts): (Vec<_>, Vec<_>) = periods.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let rows = sqlx::query!(
        r#"select c.account_id, c.from_period, c.usage_type, c.units, c.units_before, coalesce(c.amount, 0) as "amount!",
                  c.settled_at is not null as "is_settled!", c.invoice_item_id is not null as "is_item!", c.credit_note_ids, c.error,
                  coalesce(c.settled_at, c.created_at) as "at!"
           from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)
               join meter_carries c on c.account_id = p.account_id and c.from_period = p.period_start
           where c.to_period is null order by c.id"#,
        &accounts,
        &starts
    )
    .fetch_all(db)
    .await?;
    let mut late: HashMap<LineId, Vec<StoredLate>> = HashMap::new();
    for row in rows {
        let id = LineId::of_row(row.account_id, row.from_period, row.usage_type);
        late.entry(id).or_default().push(StoredLate {
            units: row.units,
            before: row.units_before,
            amount: row.amount,
            is_settled: row.is_settled,
            is_item: row.is_item,
            notes: row.credit_note_ids,
            why: row.error,
            at: row.at.unix_timestamp(),
        });
    }
    Ok(late)
}

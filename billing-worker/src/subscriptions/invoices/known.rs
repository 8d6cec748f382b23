//! What is here of an invoice, before it is read again.

use std::collections::HashMap;

use schema::AccountId;
use sqlx::PgExecutor;

use crate::{error::Error, stripe::object::invoice_line::LinePeriod};

/// Rows by the id of their invoice.
pub(super) type Known = HashMap<String, KnownInvoice>;

pub(super) struct KnownInvoice {
    pub is_settled: bool,
    /// The time that the lines are for, if the lines do not change any more.
    pub final_lines: Option<LinePeriod>,
}

/// Which of these invoices the account has here.
pub(super) async fn known(db: impl PgExecutor<'_>, account: AccountId, ids: &[String]) -> Result<Known, Error> {
    let rows = sqlx::query!(
        r#"select id, status not in ('draft', 'open') as "is_settled!", finalized_at is not null as "is_final!", period_start,
                  period_end
           from stripe_invoices where account_id = $1 and id = any($2)"#,
        account.0,
        ids
    )
    .fetch_all(db)
    .await?;
    let known = rows.into_iter().map(|row| {
        let period = LinePeriod {
            start: row.period_start.unix_timestamp(),
            end: row.period_end.unix_timestamp(),
        };
        let known = KnownInvoice {
            is_settled: row.is_settled,
            final_lines: row.is_final.then_some(period),
        };
        (row.id, known)
    });
    Ok(known.collect())
}

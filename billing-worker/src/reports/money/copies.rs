//! Invoices and credit notes from their copies in PostgreSQL.

use schema::{AccountId, period::instant};

use super::invoices::{Found, FoundInvoice, FoundLine};
use crate::reports::Reporter;

/// A day: the invoice of the first period is made a moment before or after its start.
const EARLIER: i64 = 24 * 3_600;

/// The invoices of these accounts since a day before `since`, and these credit notes.
pub(super) async fn read(
    reporter: &Reporter,
    accounts: &[AccountId],
    since: i64,
    notes: &[String],
) -> sqlx::Result<Found> {
    let rows = sqlx::query!(
        r#"select i.account_id, i.id, i.subscription_id, i.status, i.billing_reason, i.created_at, l.kind as "kind?", l.usage_type,
                  l.price_id, l.quantity, l.amount as "amount?", l.period_start as "from?", l.period_end as "to?"
           from stripe_invoices i left join stripe_invoice_lines l on l.invoice_id = i.id
           where i.account_id = any($1) and i.livemode = $2 and i.created_at >= $3
           order by i.account_id, i.created_at, i.id, l.position"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        reporter.stripe.is_live(),
        instant(since - EARLIER)
    )
    .fetch_all(&reporter.db)
    .await?;
    let mut found = Found::default();
    for row in rows {
        let invoices = found.invoices.entry(AccountId(row.account_id)).or_default();
        if invoices.last().is_none_or(|last| last.id != row.id) {
            invoices.push(FoundInvoice {
                subscription: row.subscription_id,
                status: FoundInvoice::status_of(&row.status),
                is_renewal: FoundInvoice::is_renewal_reason(row.billing_reason.as_deref()),
                created: row.created_at.unix_timestamp(),
                lines: Vec::new(),
                id: row.id,
            });
        }
        if let (Some(invoice), Some(kind), Some(amount), Some(from), Some(to)) =
            (invoices.last_mut(), row.kind, row.amount, row.from, row.to)
        {
            invoice.lines.push(FoundLine {
                kind,
                usage_type: row.usage_type,
                price: row.price_id,
                quantity: row.quantity.unwrap_or(0),
                amount,
                from: from.unix_timestamp(),
                to: to.unix_timestamp(),
            });
        }
    }
    let rows = sqlx::query!(
        r#"select id, case when status = 'void' then 0 else subtotal end as credited from stripe_reversals where id = any($1)"#,
        notes
    )
    .fetch_all(&reporter.db)
    .await?;
    found.notes = rows.into_iter().map(|row| (row.id, row.credited)).collect();
    Ok(found)
}

//! Writes invoices and their lines.

use schema::{AccountId, period::instant};
use serde_json::json;
use sqlx::{Postgres, Transaction};

use super::{
    fetch::{FetchedInvoices, Lines},
    mirrored::{InvoiceRow, LineRow, period},
};
use crate::error::Error;

/// Writes the invoices that were read, in one transaction with what else was read. Writing them again changes nothing.
pub async fn store(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    fetched: &FetchedInvoices,
    now: i64,
) -> Result<(), Error> {
    if !fetched.gone.is_empty() {
        sqlx::query!(
            "delete from stripe_invoices where account_id = $1 and id = any($2)",
            account.0,
            &fetched.gone
        )
        .execute(&mut **tx)
        .await?;
    }
    if fetched.invoices.is_empty() {
        return Ok(());
    }
    let (mut rows, mut lines, mut with_lines) = (Vec::new(), Vec::new(), Vec::new());
    for one in &fetched.invoices {
        let id = &one.invoice.id;
        let of_lines = match &one.lines {
            Lines::Stored(period) => *period,
            Lines::Read(read) => {
                with_lines.push(id.clone());
                lines.extend((0..).zip(read).map(|(position, line)| LineRow::of(id, position, line)));
                period(&one.invoice, read)
            }
        };
        rows.push(InvoiceRow::of(&one.invoice, of_lines));
    }
    sqlx::query!(
        "insert into stripe_invoices (id, account_id, customer_id, subscription_id, charges_subscription_id, livemode, number, status,
             billing_reason, currency, subtotal, discount, tax, total, amount_due, amount_paid, amount_remaining, starting_balance, ending_balance,
             created_at, finalized_at, period_start, period_end, hosted_invoice_url, invoice_pdf, fetched_at)
         select id, $2, customer_id, subscription_id, charges_subscription_id, livemode, number, status, billing_reason, currency,
             subtotal, discount, tax, total, amount_due, amount_paid, amount_remaining, starting_balance, ending_balance, created_at, finalized_at,
             period_start, period_end, hosted_invoice_url, invoice_pdf, $3
         from jsonb_populate_recordset(null::stripe_invoices, $1)
         on conflict (id) do update set account_id = excluded.account_id, customer_id = excluded.customer_id,
             subscription_id = excluded.subscription_id, charges_subscription_id = excluded.charges_subscription_id, number = excluded.number, status = excluded.status,
             billing_reason = excluded.billing_reason, currency = excluded.currency, subtotal = excluded.subtotal,
             discount = excluded.discount, tax = excluded.tax, total = excluded.total, amount_due = excluded.amount_due,
             amount_paid = excluded.amount_paid, amount_remaining = excluded.amount_remaining,
             starting_balance = excluded.starting_balance, ending_balance = excluded.ending_balance,
             finalized_at = excluded.finalized_at, period_start = excluded.period_start, period_end = excluded.period_end,
             hosted_invoice_url = excluded.hosted_invoice_url, invoice_pdf = excluded.invoice_pdf,
             fetched_at = excluded.fetched_at",
        json!(rows),
        account.0,
        instant(now)
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!(
        "delete from stripe_invoice_lines where invoice_id = any($1)",
        &with_lines
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!(
        "insert into stripe_invoice_lines (invoice_id, position, id, kind, description, plan, usage_type, price_id, quantity,
             unit_amount, amount, discount, tax, period_start, period_end)
         select invoice_id, position, id, kind, description, plan, usage_type, price_id, quantity, unit_amount, amount, discount,
             tax, period_start, period_end
         from jsonb_populate_recordset(null::stripe_invoice_lines, $1)",
        json!(lines)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

//! Writes a credit note, a refund or a dispute, and its changes into the audit log.

use schema::{AccountId, period::instant};
use serde_json::json;
use sqlx::{Postgres, Transaction};

use super::reversal::{Reversal, ReversalKind};
use crate::{administration::audit, error::Error, subscriptions::billing::Billing};

/// Returns whether it is a dispute that is lost now and was not before. Writing it again changes nothing.
pub(super) async fn store(
    tx: &mut Transaction<'_, Postgres>,
    billing: &Billing,
    account: AccountId,
    of: &Reversal,
) -> Result<bool, Error> {
    let before = sqlx::query_scalar!("select status from stripe_reversals where id = $1", of.id)
        .fetch_optional(&mut **tx)
        .await?;
    sqlx::query!(
        "insert into stripe_reversals (id, kind, account_id, invoice_id, livemode, number, status, currency, amount, subtotal, reason,
             is_ours, created_at, due_at, fetched_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         on conflict (id) do update set account_id = excluded.account_id, invoice_id = excluded.invoice_id,
             number = excluded.number, status = excluded.status, amount = excluded.amount,
             subtotal = excluded.subtotal, reason = excluded.reason,
             due_at = excluded.due_at, fetched_at = excluded.fetched_at",
        of.id,
        of.kind.as_str(),
        account.0,
        of.invoice,
        billing.stripe()?.is_live(),
        of.number,
        of.status,
        of.currency,
        of.amount,
        of.subtotal,
        of.reason,
        of.is_ours,
        instant(of.created),
        of.due.map(instant),
        instant(billing.clock.now_s())
    )
    .execute(&mut **tx)
    .await?;
    // Ours is in the audit log as `usage.credit`.
    if of.is_ours || before.as_ref() == Some(&of.status) {
        return Ok(false);
    }
    let entry = audit::Entry {
        action: match of.kind {
            ReversalKind::CreditNote => "stripe.credit_note",
            ReversalKind::Dispute => "stripe.dispute",
            ReversalKind::Refund => "stripe.refund",
        },
        account: Some(account),
        subject: of.id.clone(),
        details: json!({ "status": of.status, "amount": of.amount, "currency": of.currency, "invoice": of.invoice, "reason": of.reason }),
        actor: billing.admin.actor(),
    };
    audit::record(tx, entry).await?;
    Ok(of.is_lost())
}

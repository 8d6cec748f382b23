//! Credit notes, refunds and disputes that an operator must look at.

use protocol::reports::money;
use schema::{AccountId, period::instant};
use sqlx::{Postgres, Transaction};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::reversal::ReversalKind;
use crate::{
    error::Error,
    findings::finding::{Finding, FindingKind},
};

/// How long a person has to notice what cannot be undone: a credit note, a refund, or a dispute that was lost.
const SHOWN_S: i64 = 7 * 86_400;

/// The findings about an account: what is new, and disputes until the bank has decided.
pub async fn found(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    livemode: bool,
    now: i64,
) -> Result<Vec<Finding>, Error> {
    let rows = sqlx::query!(
        "select id, kind, invoice_id, status, currency, amount, due_at from stripe_reversals
         where account_id = $1 and livemode = $2 and not is_ours and case kind
             when 'dispute' then status not in ('won', 'warning_closed', 'prevented') and (status <> 'lost' or fetched_at > $3)
             else status not in ('void', 'canceled') and created_at > $3 end
         order by kind, id",
        account.0,
        livemode,
        instant(now - SHOWN_S)
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let (kind, verb) = match ReversalKind::from_stored(&row.kind)? {
            ReversalKind::CreditNote => (FindingKind::CreditNote, "credits"),
            ReversalKind::Dispute => (FindingKind::Dispute, "disputes"),
            ReversalKind::Refund => (FindingKind::Refund, "refunds"),
        };
        let (id, status, amount) = (&row.id, &row.status, money::text(row.amount, &row.currency));
        let of = row.invoice_id.as_deref().unwrap_or("a payment without an invoice");
        let until = row
            .due_at
            .filter(|_| row.status != "lost")
            .map(until)
            .unwrap_or_default();
        Some(Finding {
            kind,
            text: format!("{id} ({status}) {verb} {amount} of {of}{until}"),
            subject: row.id,
        })
    });
    Ok(found.collect())
}

fn until(due: OffsetDateTime) -> String {
    due.format(&Rfc3339)
        .map(|due| format!("; it can be answered until {due}"))
        .unwrap_or_default()
}

//! Attempts to bill a carry, and their outcomes, as PostgreSQL has them.

use anyhow::{Context, Result};
use protocol::reports::report::CLAIM;
use schema::period::instant;
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use tracing::{error, info, warn};

use super::late::{Charged, Late};
use crate::{
    administration::{By, audit},
    reports::Reporter,
    stripe::StripeError,
};

/// Seconds until the next attempt after a failure.
const AGAIN: i64 = 900;
/// Seconds until a credit is tried again whose invoice is not final: it may be a month.
const NOT_FINAL_AGAIN: i64 = 6 * 3_600;

/// Records the attempt and commits before the call. After a crash the item is looked for before another one is made, but not
/// while the call may still be in progress. `false`: another worker has the carry.
pub(super) async fn begin(reporter: &Reporter, late: &Late, amount: i64, currency: &str, now: i64) -> Result<bool> {
    let ours = sqlx::query!(
        "update meter_carries set attempts = $2 + 1, first_sent_at = coalesce(first_sent_at, $3), amount = $4,
             currency = $5, claimed_until = now() + $6::bigint * interval '1 second'
         where id = $1 and attempts = $2 and settled_at is null",
        late.id,
        late.attempts,
        instant(now),
        amount,
        currency,
        CLAIM
    )
    .execute(&reporter.db)
    .await
    .context("storing that an invoice item is made")?;
    Ok(ours.rows_affected() > 0)
}

pub(super) async fn settle(reporter: &Reporter, late: &Late, charged: Charged, now: i64) -> Result<()> {
    let (item, notes, amount, currency, note) = match charged {
        Charged::Item { id, amount, currency } => (Some(id), vec![], amount, Some(currency), None),
        Charged::Credit {
            notes,
            amount,
            currency,
            short,
        } => (None, notes, amount, Some(currency), short),
        Charged::Worth { amount, currency } => (None, vec![], amount, Some(currency), None),
        Charged::Nothing { why } | Charged::NotYet { why } => (None, vec![], 0, None, Some(why)),
    };
    info!(
        carry.id = %late.id, account.id = %late.account, usage_type = late.usage_type, units = late.units, amount,
        invoice_item = item.as_deref(), credit_notes = ?notes, note, "settled late usage"
    );
    let mut tx = reporter.db.begin().await?;
    let settled = sqlx::query!(
        "update meter_carries set invoice_item_id = $2, credit_note_ids = $7, amount = $3, currency = $4, error = $5,
             settled_at = $6, claimed_until = null
         where id = $1 and settled_at is null",
        late.id,
        item,
        amount,
        currency,
        note,
        instant(now),
        &notes
    )
    .execute(&mut *tx)
    .await?;
    if !notes.is_empty() && settled.rows_affected() > 0 {
        let entry = audit::Entry {
            action: "usage.credit",
            account: Some(late.account),
            subject: late.usage_type.clone(),
            details: json!({ "units": late.units, "period_start": instant(late.from_period).format(&Rfc3339)?,
                "amount_cents": amount, "currency": currency, "credit_notes": notes }),
            actor: audit::Actor {
                by: By::Service,
                name: None,
            },
        };
        audit::record(&mut tx, entry).await?;
    }
    Ok(tx.commit().await?)
}

/// Stores what units cost that wait for a next period, and ends the claim.
pub(super) async fn priced(reporter: &Reporter, late: &Late, worth: Charged) -> sqlx::Result<()> {
    let (amount, currency) = match worth {
        Charged::Worth { amount, currency } | Charged::Item { amount, currency, .. } => (amount, Some(currency)),
        Charged::Credit { .. } | Charged::NotYet { .. } | Charged::Nothing { .. } => (0, None),
    };
    sqlx::query!(
        "update meter_carries set amount = $2, currency = $3, error = null, claimed_until = null
         where id = $1 and settled_at is null",
        late.id,
        amount,
        currency
    )
    .execute(&reporter.db)
    .await?;
    Ok(())
}

/// The credit has to wait: it is tried again in some hours.
pub(super) async fn wait(reporter: &Reporter, late: &Late, why: &str, now: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update meter_carries set error = $2, next_attempt_at = $3, claimed_until = null where id = $1 and settled_at is null",
        late.id,
        why,
        instant(now + NOT_FINAL_AGAIN)
    )
    .execute(&reporter.db)
    .await?;
    Ok(())
}

pub(super) async fn postpone(reporter: &Reporter, late: &Late, failure: StripeError, now: i64) -> sqlx::Result<()> {
    let account = late.account;
    match failure.is_passing() {
        true => warn!(carry.id = %late.id, account.id = %account, "late usage is not billed yet: {failure}"),
        false => error!(carry.id = %late.id, account.id = %account, "late usage cannot be billed: {failure}"),
    }
    // A failure that is known to have had no effect leaves nothing to look for.
    let unclear = matches!(
        failure,
        StripeError::Unknown(_) | StripeError::Failed(_) | StripeError::Unreadable(_)
    );
    sqlx::query!(
        "update meter_carries set error = $2, next_attempt_at = $3, claimed_until = null,
             first_sent_at = case when $4 then first_sent_at else $5::timestamptz end
         where id = $1 and attempts <= $6 + 2 and settled_at is null",
        late.id,
        failure.to_string(),
        instant(now + AGAIN),
        unclear,
        late.first_sent_at.map(instant),
        late.attempts
    )
    .execute(&reporter.db)
    .await?;
    Ok(())
}

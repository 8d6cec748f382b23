//! Closes periods: what is told after a period's invoice is final would be on no invoice. Events tell of it; where none came,
//! because their endpoint was wrong or nobody was there, Stripe is asked before anything is told.

use std::collections::HashSet;

use anyhow::{Context, Result};
use schema::{AccountId, period::instant};
use sqlx::PgExecutor;
use stripe_billing::invoice::ListInvoice;
use stripe_types::{RangeBoundsTs, RangeQueryTs};
use tracing::{error, warn};

use super::{Reporter, count::AccountPeriod, period::BillingPeriod};
use crate::stripe::object::{Invoice, List};

/// An invoice is final an hour after its period's end, and its event comes at once.
const DUE: i64 = 3_600;
/// It is made at the end, or, where Stripe is late itself, a little after.
const MADE_WITHIN: i64 = 24 * 3_600;

/// What came of asking.
#[derive(Debug, Default)]
pub struct Asked {
    /// Those of which it is known now whether they are final.
    pub periods: HashSet<AccountPeriod>,
    /// Those that were.
    pub closed: u64,
}

/// Whether the period's invoice may be final although nobody told.
pub fn is_due(period: &BillingPeriod, now: i64) -> bool {
    period.final_at.is_none() && period.end + DUE <= now
}

/// Closes the period that the invoice bills, if it is final. True: it was open.
pub async fn close(
    db: impl PgExecutor<'_>,
    account: AccountId,
    subscription: &str,
    invoice: &Invoice,
) -> sqlx::Result<bool> {
    let Some(finalized_at) = invoice.status_transitions.finalized_at else {
        return Ok(false);
    };
    let closed = sqlx::query!(
        // Within a minute: a subscription that is ended now ends a moment before or after its last invoice's period.
        "update billing_periods set final_at = $4
         where account_id = $1 and stripe_subscription_id = $2 and final_at is null
           and period_end between $3::timestamptz - interval '1 minute' and $3::timestamptz + interval '1 minute'",
        account.0,
        subscription,
        instant(invoice.period_end),
        instant(finalized_at)
    )
    .execute(db)
    .await?;
    Ok(closed.rows_affected() > 0)
}

/// Asks for the invoices of these periods, and closes those that are final.
pub async fn ask(reporter: &Reporter, periods: &[BillingPeriod]) -> Result<Asked> {
    let mut asked = Asked::default();
    for period in periods {
        let account = period.account;
        let list = ListInvoice::new()
            .subscription(period.subscription.as_str())
            .created(RangeQueryTs::Bounds(RangeBoundsTs {
                gte: Some(period.end - 60),
                lte: Some(period.end + MADE_WITHIN),
                ..Default::default()
            }))
            .limit(100);
        let invoices: List<Invoice> = match reporter.stripe.read(&list).await {
            Ok(invoices) => invoices,
            Err(failure) => {
                error!(account.id = %account, "the invoices of a period that is over cannot be read, nothing is told in it: {failure}");
                match failure.is_passing() {
                    true => break,
                    false => continue,
                }
            }
        };
        for invoice in &invoices.data {
            let closed = close(&reporter.db, account, &period.subscription, invoice).await;
            if closed.context("closing a period")? {
                warn!(account.id = %account, invoice.id = invoice.id, "an invoice is final, and no event had told");
                asked.closed += 1;
            }
        }
        asked.periods.insert((account, period.start));
    }
    Ok(asked)
}

//! Closes periods whose invoice is final, because usage that is reported later would be on no invoice. An event reports that an
//! invoice is final. The event may be missing, because the endpoint was wrong or the service was down. So Stripe is asked before
//! usage is reported.

use std::collections::HashSet;

use anyhow::{Context, Result};
use protocol::reports::period::BillingPeriod;
use schema::{AccountId, period::instant};
use sqlx::PgExecutor;
use tracing::{error, warn};

use super::{Reporter, count::AccountPeriod};
use crate::{stripe::object::Invoice, subscriptions::invoices::fetch};

/// An invoice is final an hour after its period's end, and its event comes at once.
const DUE: i64 = 3_600;

/// Stripe's answer about the invoices of periods.
#[derive(Debug, Default)]
pub struct Asked {
    /// The periods for which it is known whether their invoice is final.
    pub periods: HashSet<AccountPeriod>,
    /// How many of them were final.
    pub closed: u64,
}

/// Whether the period's invoice may be final although no event has reported it.
pub fn is_due(period: &BillingPeriod, now: i64) -> bool {
    period.final_at.is_none() && period.end + DUE <= now
}

/// Closes the period that the invoice bills, with all of its segments, if the invoice is final. `true`: the period was open.
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
         where account_id = $1 and stripe_subscription_id = $2 and final_at is null and billed_by = 'invoice'
           and coalesce(bills_at, period_end) between $3::timestamptz - interval '1 minute' and $3::timestamptz + interval '1 minute'",
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
        let stripe = reporter.stripe.of(account);
        let invoices = match fetch::of_period(&stripe, &period.subscription, period.end).await {
            Ok(invoices) => invoices,
            Err(failure) => {
                error!(account.id = %account, "could not read the invoices of a period that is over, no usage is reported in it: {failure}");
                match failure.is_passing() {
                    true => break,
                    false => continue,
                }
            }
        };
        for invoice in &invoices {
            let closed = close(&reporter.db, account, &period.subscription, invoice).await;
            if closed.context("closing a period")? {
                warn!(account.id = %account, invoice.id = invoice.id, "an invoice is final, and no event had reported it");
                asked.closed += 1;
            }
        }
        asked.periods.insert((account, period.start));
    }
    Ok(asked)
}

//! Whether Stripe has counted all reported units. Its summaries and invoices lag behind the events.

use protocol::reports::period::{BilledBy, BillingPeriod};
use schema::AccountId;

use super::Reporter;
use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Equal,
    /// Some reported units are missing.
    Behind,
    /// Nothing is missing, and there are units that were not reported, or were taken back.
    Ahead,
}

/// Compares the ledger with Stripe's summaries, for what the subscription bills in its periods without a final invoice.
pub async fn look(reporter: &Reporter, account: AccountId, subscription: &str) -> Result<Counted, Error> {
    let lines = sqlx::query!(
        r#"select l.usage_type, l.reported_units, p.period_start, coalesce(p.bills_at, p.period_end) as "bills_at!",
                  coalesce(p.reports_from, p.period_start) as "reports_from!",
               p.meter_slot, p.customer_id
           from billing_periods p
               join meter_ledger l on l.account_id = p.account_id and l.period_start = p.period_start
           where p.account_id = $1 and p.stripe_subscription_id = $2 and p.final_at is null and p.billed_by = 'invoice' and l.reports > 0
               and exists (select from subscriptions s join subscription_items i on i.subscription_id = s.id
                   where s.stripe_subscription_id = p.stripe_subscription_id and i.usage_type = l.usage_type)"#,
        account.0,
        subscription
    )
    .fetch_all(&reporter.db)
    .await?;
    let mut counted = Counted::Equal;
    for line in lines {
        let period = BillingPeriod {
            account,
            start: line.period_start.unix_timestamp(),
            from: line.reports_from.unix_timestamp(),
            end: line.bills_at.unix_timestamp(),
            meter_slot: line.meter_slot,
            customer: line.customer_id,
            subscription: subscription.to_owned(),
            plan: None,
            version: None,
            final_at: None,
            billed_by: BilledBy::Invoice,
        };
        let (stripe, usage_type) = (&reporter.stripe, &line.usage_type);
        let units = reporter.meters.units(stripe, &period, usage_type).await?;
        if units < line.reported_units {
            return Ok(Counted::Behind);
        }
        if units > line.reported_units {
            counted = Counted::Ahead;
        }
    }
    Ok(counted)
}

//! The billing periods of a subscription, as rows: usage that is stamped with one of them is reported to Stripe.

use std::collections::BTreeMap;

use schema::{AccountId, Period, period::instant, subscription::SubscriptionStatus};
use serde_json::json;
use sqlx::{Postgres, Transaction};

use super::mirrored::Mirrored;
use crate::error::Error;

/// Writes the periods whose usage is reported to Stripe: the current one, and those after the last known one for which no event
/// arrived. Gateways began these periods without an event.
pub async fn write(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    customer: &str,
    of: &Mirrored,
) -> Result<(), Error> {
    /// Two years of months.
    const MISSED_MAX: usize = 24;
    let known_end = sqlx::query_scalar!(
        "select max(period_end) from billing_periods where account_id = $1 and stripe_subscription_id = $2",
        account.0,
        of.stripe_id
    )
    .fetch_one(&mut **tx)
    .await?;
    // A subscription that was never paid for has no periods. If a subscription was unknown here while it ran, no usage is
    // stamped with its periods.
    if !of.is_live() && (of.status != SubscriptionStatus::Canceled || known_end.is_none()) {
        return Ok(());
    }
    // A period that ends early, because a trial was shortened or the billing day moved.
    sqlx::query!(
        "update billing_periods set period_end = $3
         where account_id = $1 and stripe_subscription_id = $2 and final_at is null and period_start < $3 and period_end > $3",
        account.0,
        of.stripe_id,
        instant(of.period.start)
    )
    .execute(&mut **tx)
    .await?;
    let metered = of
        .items
        .iter()
        .filter_map(|item| Some((item.usage_type.clone()?, item.price_id.clone())));
    let prices = json!(metered.collect::<BTreeMap<_, _>>());
    let mut periods = vec![of.period];
    if let Some(known_end) = known_end.map(|end| end.unix_timestamp()) {
        let mut at = known_end;
        while at < of.period.start && periods.len() < MISSED_MAX {
            let missed = Period::anchored_month(of.anchor, at);
            periods.push(Period {
                start: at,
                end: missed.end.min(of.period.start),
            });
            at = missed.end;
        }
    }
    for period in periods {
        let end = of.ended_at.map_or(period.end, |ended| ended.min(period.end));
        if end <= period.start {
            continue;
        }
        // A subscription that bills nothing by the unit gets no invoice after its end.
        let final_at = of
            .ended_at
            .filter(|_| of.items.iter().all(|item| item.usage_type.is_none()));
        // The prices of missed periods are unknown.
        let prices = Some(&prices).filter(|_| period.start == of.period.start);
        // The end moves: a period may end early. A final period stays as it was billed.
        sqlx::query!(
            "insert into billing_periods as p (account_id, period_start, period_end, customer_id, stripe_subscription_id, final_at,
                 prices)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (account_id, period_start) do update set period_end = excluded.period_end,
                 customer_id = excluded.customer_id, stripe_subscription_id = excluded.stripe_subscription_id,
                 final_at = excluded.final_at, prices = coalesce(excluded.prices, p.prices)
             where p.final_at is null and (p.period_end, p.customer_id, p.stripe_subscription_id, p.final_at, p.prices)
                   is distinct from (excluded.period_end, excluded.customer_id, excluded.stripe_subscription_id,
                       excluded.final_at, coalesce(excluded.prices, p.prices))",
            account.0,
            instant(period.start),
            instant(end),
            customer,
            of.stripe_id,
            final_at.map(instant),
            prices
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

//! What the units of slices cost, and when they are charged. No price in Stripe bills them.

use std::collections::BTreeSet;

use schema::{AccountId, period::instant};
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;

use crate::{
    error::Error,
    stripe::catalogue::Rate,
    subscriptions::{mirrored::Mirrored, segment::Segment},
};

/// Whether units cost what they cost in this segment. `None`: there is none.
pub(super) async fn cost_the_same(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    segment: Option<i64>,
    of: &Mirrored,
) -> Result<bool, Error> {
    let Some(segment) = segment else {
        return Ok(false);
    };
    let stored = sqlx::query!(
        "select usage_type, included_units, unit_price_micros, currency from segment_prices
         where account_id = $1 and period_start = $2",
        account.0,
        instant(segment)
    )
    .fetch_all(&mut **tx)
    .await?;
    let stored: BTreeSet<_> = stored
        .into_iter()
        .map(|row| (row.usage_type, row.included_units, row.unit_price_micros, row.currency))
        .collect();
    let wanted = of.rates().into_iter().map(|(usage_type, rate)| {
        (
            usage_type,
            Some(rate.included),
            Some(rate.unit_price_micros),
            Some(rate.currency),
        )
    });
    Ok(stored == wanted.collect())
}

/// What the usage of the running segment costs. It never changes: other prices begin another segment.
pub(super) async fn write_rates(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    of: &Mirrored,
    running: Segment,
) -> Result<(), Error> {
    let rates = of.rates();
    let column = |of: fn(&(String, Rate)) -> i64| rates.iter().map(of).collect::<Vec<_>>();
    sqlx::query!(
        "insert into segment_prices (account_id, period_start, usage_type, included_units, unit_price_micros, currency)
         select p.account_id, p.period_start, r.*
         from billing_periods p
             cross join unnest($3::text[], $4::bigint[], $5::bigint[], $6::text[])
                 as r (usage_type, included_units, unit_price_micros, currency)
         where p.account_id = $1 and p.period_start = $2 and p.final_at is null
         on conflict (account_id, period_start, usage_type) do nothing",
        account.0,
        instant(running.start),
        &rates
            .iter()
            .map(|(usage_type, _)| usage_type.clone())
            .collect::<Vec<_>>(),
        &column(|(_, rate)| rate.included),
        &column(|(_, rate)| rate.unit_price_micros),
        &rates.iter().map(|(_, rate)| rate.currency.clone()).collect::<Vec<_>>()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Slices of which nobody knew when they ran cost what the slice before them costs.
pub(super) async fn copy_rates(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    from: i64,
    to: &[i64],
) -> Result<(), Error> {
    let to: Vec<OffsetDateTime> = to.iter().map(|start| instant(*start)).collect();
    if to.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into segment_prices (account_id, period_start, usage_type, included_units, unit_price_micros, currency)
         select p.account_id, p.period_start, s.usage_type, s.included_units, s.unit_price_micros, s.currency
         from billing_periods p join segment_prices s on s.account_id = p.account_id and s.period_start = $2
         where p.account_id = $1 and p.period_start = any($3)
         on conflict (account_id, period_start, usage_type) do nothing",
        account.0,
        instant(from),
        &to
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The usage of a subscription that has ended is charged at its end, also if the catalogue says that it is charged at the end of the
/// year.
pub(super) async fn end(tx: &mut Transaction<'_, Postgres>, account: AccountId, of: &Mirrored) -> Result<(), Error> {
    let Some(ended_at) = of.ended_at else {
        return Ok(());
    };
    sqlx::query!(
        "update billing_periods set bills_at = case when period_end < $3 then $3::timestamptz end
         where account_id = $1 and stripe_subscription_id = $2 and billed_by = 'charge' and final_at is null
             and coalesce(bills_at, period_end) > $3",
        account.0,
        of.stripe_id,
        instant(ended_at)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

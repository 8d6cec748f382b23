//! The billing periods of a subscription and their segments, as rows: usage that is stamped with one of them is reported to Stripe.

mod charges;

use protocol::reports::period::BilledBy;
use schema::{AccountId, Period, period::instant, subscription::SubscriptionStatus};
use sqlx::{PgExecutor, Postgres, Transaction};
use uuid::Uuid;

use super::{
    mirrored::Mirrored,
    segment::{self, Begun, Known, Segment},
};
use crate::error::Error;

/// A row to write.
struct Row<'a> {
    start: i64,
    end: i64,
    /// The end of the period.
    bills_at: i64,
    /// The start of the period.
    quota_start: i64,
    slot: i16,
    /// `None`: as it is stored, or not known.
    plan: Option<&'a str>,
    version: Option<Uuid>,
    /// The first second whose usage its metered items bill.
    reports_from: i64,
    /// Some of its metered items are not there yet.
    is_held: bool,
    billed_by: BilledBy,
}

/// What was written.
pub(super) struct Written {
    /// How many subscriptions changed.
    pub changed: u64,
    /// The segment that runs; `None`: no usage is reported.
    pub running: Option<Segment>,
}

/// An upgrade that has begun and is not stored yet, and whether the subscription has all of its prices.
#[derive(Clone, Copy)]
pub(super) struct Upgraded {
    pub begun: Begun,
    pub is_complete: bool,
}

/// Writes the periods whose usage is reported to Stripe: the current one with its segments, and those after the last known one for
/// which no event arrived. Gateways began these periods without an event.
pub(super) async fn write(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    customer: &str,
    of: &Mirrored,
    upgraded: Option<Upgraded>,
    now: i64,
) -> Result<Written, Error> {
    /// Two years of months.
    const MISSED_MAX: usize = 24;
    let known = known(&mut **tx, account, &of.stripe_id).await?;
    // A subscription that was never paid for has no periods. If a subscription was unknown here while it ran, no usage is
    // stamped with its periods.
    if !of.is_live() && (of.status != SubscriptionStatus::Canceled || known.is_empty()) {
        return Ok(Written {
            changed: 0,
            running: None,
        });
    }
    end_early(tx, account, of).await?;
    let running = match of.billed_by() {
        BilledBy::Invoice => segment::running(&known, of, upgraded.map(|upgraded| upgraded.begun), now),
        BilledBy::Charge => {
            let same = charges::cost_the_same(tx, account, known.last().map(|last| last.start), of).await?;
            segment::of_slice(&known, of, same, now)
        }
    };
    let is_held = upgraded.is_some_and(|upgraded| !upgraded.is_complete);
    let mut rows = segments(&known, of, running, is_held);
    let mut missed_slices = Vec::new();
    if let Some(last) = known.last() {
        let mut at = last.end;
        while at < of.period.start && rows.len() < MISSED_MAX {
            let missed = Period::anchored_month(of.anchor, at);
            let end = missed.end.min(of.period.start);
            let billed_by = if at < of.paid.start {
                last.billed_by
            } else {
                of.billed_by()
            };
            // The prices of a month that no event told of are unknown. Those of a slice are the prices of the slice before it.
            let is_slice = billed_by == BilledBy::Charge && last.billed_by == BilledBy::Charge;
            if is_slice {
                missed_slices.push(at);
            }
            rows.push(Row {
                start: at,
                end,
                bills_at: match (billed_by, at < of.paid.start) {
                    (BilledBy::Charge, false) => of.charged_at(end),
                    (BilledBy::Charge, true) => of.charged_at(end).min(of.paid.start),
                    (BilledBy::Invoice, _) => end,
                },
                quota_start: at,
                slot: last.slot,
                plan: last.plan.as_deref().filter(|_| is_slice),
                version: last.version.filter(|_| is_slice),
                reports_from: at,
                is_held: false,
                billed_by,
            });
            at = missed.end;
        }
    }
    for row in &rows {
        upsert(tx, account, customer, of, row).await?;
    }
    match of.billed_by() {
        BilledBy::Invoice => write_prices(tx, account, of, running).await?,
        BilledBy::Charge => charges::write_rates(tx, account, of, running).await?,
    }
    if let Some(last) = known.last() {
        charges::copy_rates(tx, account, last.start, &missed_slices).await?;
    }
    charges::end(tx, account, of).await?;
    let changed = sqlx::query!(
        "update subscriptions set segment_start = $2, updated_at = now() where id = $1 and segment_start is distinct from $2",
        of.id.0,
        Some(running.start).filter(|start| *start != of.period.start).map(instant)
    )
    .execute(&mut **tx)
    .await?;
    Ok(Written {
        changed: changed.rows_affected(),
        running: Some(running),
    })
}

/// The segments of the running period, the newest first.
fn segments<'a>(known: &[Known], of: &'a Mirrored, running: Segment, is_held: bool) -> Vec<Row<'a>> {
    let items = segment::items(of).filter(|item| item.meter_slot == running.slot);
    let added = items.filter_map(|item| item.created).max();
    let row = |start: i64, end: i64, slot: i16| Row {
        start,
        end,
        bills_at: match of.billed_by() {
            BilledBy::Invoice => of.period.end,
            BilledBy::Charge => of.charged_at(of.period.end),
        },
        billed_by: of.billed_by(),
        quota_start: of.period.start,
        slot,
        plan: None,
        version: None,
        reports_from: start,
        is_held: false,
    };
    let mut rows = vec![Row {
        plan: Some(&of.plan),
        version: of.version.as_ref().map(|version| version.id),
        reports_from: added.map_or(running.start, |added| added.max(running.start)),
        is_held,
        ..row(running.start, of.period.end, running.slot)
    }];
    let mut end = running.start;
    for known in known
        .iter()
        .rev()
        .filter(|known| known.start < running.start && of.period.contains(known.start))
    {
        rows.push(row(known.start, end, known.slot));
        end = known.start;
    }
    // No event of the period arrived before its first change of prices.
    if end > of.period.start {
        let slot = known.last().map_or(0, |known| known.slot);
        rows.push(row(of.period.start, end, slot));
    }
    rows
}

/// The segments of the subscription whose invoice is not final, and the last one. Oldest first.
pub(super) async fn known(
    db: impl PgExecutor<'_>,
    account: AccountId,
    subscription: &str,
) -> Result<Vec<Known>, Error> {
    let rows = sqlx::query!(
        r#"select period_start, period_end, coalesce(bills_at, period_end) as "bills_at!", meter_slot, plan_id,
               version_id, final_at is not null as "is_final!", billed_by
           from billing_periods p
           where account_id = $1 and stripe_subscription_id = $2 and (final_at is null or period_start = (
               select max(l.period_start) from billing_periods l
               where l.account_id = p.account_id and l.stripe_subscription_id = p.stripe_subscription_id))
           order by period_start"#,
        account.0,
        subscription
    )
    .fetch_all(db)
    .await?;
    let known = rows.into_iter().map(|row| Known {
        start: row.period_start.unix_timestamp(),
        end: row.period_end.unix_timestamp(),
        bills_at: row.bills_at.unix_timestamp(),
        slot: row.meter_slot,
        plan: row.plan_id,
        version: row.version_id,
        is_final: row.is_final,
        billed_by: BilledBy::from_stored(&row.billed_by),
    });
    Ok(known.collect())
}

/// A period ends early, because a trial was shortened or the billing day moved.
async fn end_early(tx: &mut Transaction<'_, Postgres>, account: AccountId, of: &Mirrored) -> Result<(), Error> {
    sqlx::query!(
        "update billing_periods set period_end = least(period_end, $3),
             bills_at = case when billed_by = 'charge' then bills_at when period_end < $3 then $3::timestamptz end
         where account_id = $1 and stripe_subscription_id = $2 and final_at is null and period_start < $3
             and case when billed_by = 'charge' then period_end else coalesce(bills_at, period_end) end > $3",
        account.0,
        of.stripe_id,
        instant(of.period.start)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn upsert(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    customer: &str,
    of: &Mirrored,
    row: &Row<'_>,
) -> Result<(), Error> {
    let until = |end: i64| of.ended_at.map_or(end, |ended| ended.min(end));
    let (end, bills_at) = (until(row.end), until(row.bills_at));
    if end <= row.start {
        return Ok(());
    }
    // A subscription that bills nothing by the unit gets no invoice after its end.
    let final_at = of
        .ended_at
        .filter(|_| row.billed_by == BilledBy::Invoice && of.items.iter().all(|item| item.usage_type.is_none()));
    let paid = Some(of.paid).filter(|paid| row.billed_by == BilledBy::Charge && row.start >= paid.start);
    // The end moves: a period may end early. A final period stays as it was billed. The slot never changes, and neither does the
    // first second that is billed: usage is reported from then on.
    sqlx::query!(
        "insert into billing_periods as p (account_id, period_start, period_end, customer_id, stripe_subscription_id, final_at,
             bills_at, quota_start, meter_slot, plan_id, reports_from, is_held, version_id, billed_by, interval_months,
             paid_period_start, paid_period_end)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
             -- A slice of the year before, of which no event told.
             coalesce($16, (select l.paid_period_start from billing_periods l where l.account_id = $1
                 and l.stripe_subscription_id = $5 and $14 = 'charge' and l.paid_period_start <= $2 and l.paid_period_end > $2
                 limit 1)),
             coalesce($17, (select l.paid_period_end from billing_periods l where l.account_id = $1
                 and l.stripe_subscription_id = $5 and $14 = 'charge' and l.paid_period_start <= $2 and l.paid_period_end > $2
                 limit 1)))
         on conflict (account_id, period_start) do update set period_end = excluded.period_end,
             customer_id = excluded.customer_id, stripe_subscription_id = excluded.stripe_subscription_id,
             final_at = excluded.final_at, bills_at = excluded.bills_at, plan_id = coalesce(excluded.plan_id, p.plan_id),
             version_id = case when excluded.plan_id is null then p.version_id else excluded.version_id end,
             reports_from = case when p.is_held then excluded.reports_from else p.reports_from end, is_held = excluded.is_held,
             billed_by = excluded.billed_by, interval_months = excluded.interval_months,
             paid_period_start = excluded.paid_period_start, paid_period_end = excluded.paid_period_end
         where p.final_at is null and (p.period_end, p.customer_id, p.stripe_subscription_id, p.final_at, p.bills_at, p.plan_id,
               p.version_id, p.is_held, p.billed_by, p.interval_months, p.paid_period_start, p.paid_period_end)
               is distinct from (excluded.period_end, excluded.customer_id, excluded.stripe_subscription_id,
                   excluded.final_at, excluded.bills_at, coalesce(excluded.plan_id, p.plan_id),
                   case when excluded.plan_id is null then p.version_id else excluded.version_id end, excluded.is_held,
                   excluded.billed_by, excluded.interval_months, excluded.paid_period_start, excluded.paid_period_end)",
        account.0,
        instant(row.start),
        instant(end),
        customer,
        of.stripe_id,
        final_at.map(instant),
        Some(bills_at).filter(|at| *at != end).map(instant),
        Some(row.quota_start).filter(|at| *at != row.start).map(instant),
        row.slot,
        row.plan,
        Some(row.reports_from).filter(|at| *at != row.start).map(instant),
        row.is_held,
        row.version,
        row.billed_by.as_str(),
        match row.billed_by {
            BilledBy::Invoice => 1,
            BilledBy::Charge => of.interval_months,
        },
        paid.map(|paid| instant(paid.start)),
        paid.map(|paid| instant(paid.end))
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What the usage of the running segment costs. A final segment keeps the prices that it was billed at.
async fn write_prices(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    of: &Mirrored,
    running: Segment,
) -> Result<(), Error> {
    let items = segment::billed_by(of, running.slot);
    let usage_types: Vec<_> = items.iter().filter_map(|item| item.usage_type.clone()).collect();
    let prices: Vec<_> = items.iter().map(|item| item.price_id.clone()).collect();
    let rates = || items.iter().map(|item| item.rate.as_ref());
    sqlx::query!(
        "with segment as (
             select account_id, period_start, meter_slot from billing_periods
             where account_id = $1 and period_start = $2 and final_at is null),
         wanted as (
             select s.account_id, s.period_start, w.usage_type, w.price_id, w.included_units, w.unit_price_micros,
                 $8::text as currency
             from segment s join unnest($3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::bigint[])
                 as w (usage_type, price_id, meter_slot, included_units, unit_price_micros)
                 on w.meter_slot = s.meter_slot),
         removed as (
             delete from segment_prices p using segment s
             where p.account_id = s.account_id and p.period_start = s.period_start
                 and p.usage_type not in (select usage_type from wanted))
         insert into segment_prices as p (account_id, period_start, usage_type, price_id, included_units, unit_price_micros,
             currency)
         select * from wanted
         on conflict (account_id, period_start, usage_type) do update set price_id = excluded.price_id,
             included_units = excluded.included_units, unit_price_micros = excluded.unit_price_micros,
             currency = excluded.currency
         where p.price_id is distinct from excluded.price_id or p.included_units is null",
        account.0,
        instant(running.start),
        &usage_types,
        &prices,
        &items.iter().map(|item| item.meter_slot).collect::<Vec<_>>(),
        &rates().map(|rate| rate.map(|rate| rate.included)).collect::<Vec<_>>() as &[Option<i64>],
        &rates().map(|rate| rate.map(|rate| rate.unit_price_micros)).collect::<Vec<_>>() as &[Option<i64>],
        of.currency
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

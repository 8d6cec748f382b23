//! Periods and ledger lines as PostgreSQL has them.

use std::collections::HashMap;

use protocol::reports::{
    identifier::LineId,
    ledger::Line,
    period::{BilledBy, BillingPeriod},
    report::SUMMARY_LAG,
};
use schema::{AccountId, period::instant};
use time::{OffsetDateTime, Time};

use super::{
    line_state::Recent,
    question::{Question, Which},
    waiting::Waiting,
};
use crate::reports::Reporter;

/// Accounts of one page.
const PAGE: i64 = 500;

pub(super) struct Period {
    pub(super) period: BillingPeriod,
    /// Its last second is before this. An upgrade ends a segment before the end of the period.
    pub(super) ends_at: i64,
    pub(super) is_frozen: bool,
}

/// A line as the database has it.
pub(super) struct Stored {
    pub(super) line: Line,
    pub(super) frozen_units: Option<i64>,
    /// Units of the open report, and whether it is parked.
    pub(super) open: Option<(i64, bool)>,
    pub(super) recent: Recent,
    /// The plan bills the usage type by the unit, as far as it is known.
    pub(super) may_cost: bool,
    pub(super) waiting: Option<Waiting>,
}

pub(in crate::reports) async fn accounts(
    reporter: &Reporter,
    question: &Question,
    after: AccountId,
) -> sqlx::Result<Vec<AccountId>> {
    let ids = sqlx::query_scalar!(
        "select distinct account_id from billing_periods p
         where account_id > $1 and ($2::uuid is null or account_id = $2)
             and not exists (select from stripe_customers c where c.account_id = p.account_id and c.livemode <> $4)
         order by account_id limit $3",
        after.0,
        question.account.map(|account| account.0),
        PAGE,
        reporter.stripe.is_live()
    )
    .fetch_all(&reporter.db)
    .await?;
    Ok(ids.into_iter().map(AccountId).collect())
}

pub(super) async fn periods(
    reporter: &Reporter,
    question: &Question,
    accounts: &[AccountId],
    now: i64,
) -> sqlx::Result<Vec<Period>> {
    // Periods that contain a part of [from, to), and those with late usage that is on no invoice. Of the daily check also those with
    // a difference.
    let (from, to) = match question.which {
        Which::Current => (now, now + 1),
        Which::Day(day) => {
            let midnight = OffsetDateTime::new_utc(day, Time::MIDNIGHT).unix_timestamp();
            (midnight, midnight + 24 * 3_600)
        }
        Which::Since(since) => (since, now + 1),
        Which::Previous | Which::All => (0, now + 1),
    };
    let rows = sqlx::query!(
        r#"with p as (select *, coalesce(bills_at, period_end) as ends_at from billing_periods where account_id = any($1))
           select account_id, period_start, period_end, ends_at as "ends_at!",
               coalesce(reports_from, period_start) as "reports_from!", meter_slot, customer_id, stripe_subscription_id,
               plan_id, version_id, final_at, frozen_at, billed_by
           from p
           where period_start < $3 and ends_at > $2
                   and (not $4 or ends_at = (select max(e.ends_at) from p e
                       where e.account_id = p.account_id and e.ends_at <= $5))
               or exists (select from meter_carries c where c.settled_at is null and c.account_id = p.account_id
                   and c.from_period = p.period_start)
               or $6 and exists (select from money_checks m where m.state = 'difference' and m.account_id = p.account_id
                   and m.period_start = p.period_start)
           order by account_id, period_start"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(from),
        instant(to),
        question.which == Which::Previous,
        instant(now),
        matches!(question.which, Which::Since(_))
    )
    .fetch_all(&reporter.db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Period {
            is_frozen: row.frozen_at.is_some(),
            ends_at: row.period_end.unix_timestamp(),
            period: BillingPeriod {
                account: AccountId(row.account_id),
                start: row.period_start.unix_timestamp(),
                from: row.reports_from.unix_timestamp(),
                end: row.ends_at.unix_timestamp(),
                meter_slot: row.meter_slot,
                customer: row.customer_id,
                subscription: row.stripe_subscription_id,
                plan: row.plan_id,
                version: row.version_id,
                final_at: row.final_at.map(OffsetDateTime::unix_timestamp),
                billed_by: BilledBy::from_stored(&row.billed_by),
            },
        })
        .collect())
}

pub(super) async fn lines(reporter: &Reporter, periods: &[Period], now: i64) -> sqlx::Result<HashMap<LineId, Stored>> {
    let (accounts, starts): (Vec<_>, Vec<_>) = periods
        .iter()
        .map(|period| (period.period.account.0, instant(period.period.start)))
        .unzip();
    let rows = sqlx::query!(
        r#"select l.account_id, l.period_start, l.usage_type, l.reported_units, l.carried_in, l.carried_out,
                  l.corrected_units, l.reports, l.frozen_units, r.to_units - r.from_units as "open?",
                  r.state = 'parked' as "is_parked?",
                  d.added as "added!", d.taken as "taken!",
                  b.plan_id is null and b.prices is null or coalesce(b.prices ? l.usage_type, false)
                      or exists (select from segment_prices s where s.account_id = l.account_id
                          and s.period_start = l.period_start and s.usage_type = l.usage_type) as "may_cost!",
                  w.units as "waiting_units?", w.amount as "waiting_amount?", w.currency as "waiting_currency?",
                  w.since as "waiting_since?"
           from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)
               join meter_ledger l on l.account_id = p.account_id and l.period_start = p.period_start
               join billing_periods b on b.account_id = l.account_id and b.period_start = l.period_start
               left join meter_reports r on r.account_id = l.account_id and r.period_start = l.period_start
                   and r.usage_type = l.usage_type and r.state in ('open', 'parked')
               cross join lateral (
                   select coalesce(sum(greatest(d.to_units - d.from_units, 0)), 0)::bigint as added,
                       coalesce(sum(least(d.to_units - d.from_units, 0)), 0)::bigint as taken
                   from meter_reports d where d.account_id = l.account_id and d.period_start = l.period_start
                       and d.usage_type = l.usage_type and d.done_at > $3) d
               left join lateral (
                   select sum(c.units)::bigint as units, sum(c.amount)::bigint as amount, max(c.currency) as currency,
                       min(c.created_at) as since
                   from meter_carries c where c.settled_at is null and c.amount is distinct from 0 and c.account_id = l.account_id
                       and c.from_period = l.period_start and c.usage_type = l.usage_type) w on true"#,
        &accounts,
        &starts,
        instant(now - SUMMARY_LAG)
    )
    .fetch_all(&reporter.db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let id = LineId::of_row(row.account_id, row.period_start, row.usage_type);
            let stored = Stored {
                line: Line {
                    reported: row.reported_units,
                    carried_in: row.carried_in,
                    carried_out: row.carried_out,
                    corrected: row.corrected_units,
                    reports: row.reports,
                },
                frozen_units: row.frozen_units,
                open: row.open.map(|units| (units, row.is_parked == Some(true))),
                recent: Recent {
                    added: row.added,
                    taken: row.taken,
                },
                may_cost: row.may_cost,
                waiting: row.waiting_since.filter(|_| row.may_cost).map(|since| Waiting {
                    units: row.waiting_units.unwrap_or(0),
                    amount_cents: row.waiting_amount,
                    currency: row.waiting_currency,
                    since,
                }),
            };
            (id, stored)
        })
        .collect())
}

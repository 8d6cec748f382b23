//! Freezes periods whose totals agree in ClickHouse, in the ledger and at Stripe. The totals are kept in PostgreSQL and never
//! summed again.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use protocol::reports::{
    identifier::LineId,
    ledger::Line,
    period::{BilledBy, BillingPeriod},
    report::SUMMARY_LAG,
};
use schema::{AccountId, period::instant};
use tracing::{error, info};

use super::{Reporter, count};
use crate::stripe::StripeError;

/// Maximum number of periods per step. Stripe is asked for each, within the rate limit that all calls share.
const PERIODS_MAX: i64 = 200;
const READS_AT_ONCE: usize = 8;

/// The result of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    pub periods: u64,
    /// Periods whose summaries at Stripe differ from the reported units.
    pub differing: u64,
}

struct Candidate {
    period: BillingPeriod,
    lines: HashMap<LineId, Line>,
    /// Those that cost something.
    costly: HashSet<LineId>,
    /// The summaries may not include the last delivery yet.
    is_settling: bool,
}

pub async fn step(reporter: &Reporter, now: i64) -> Result<Frozen> {
    let mut frozen = Frozen::default();
    for candidate in candidates(reporter, now).await.context("reading final periods")? {
        match agrees(reporter, &candidate).await {
            Ok(None) => frozen.periods += u64::from(freeze(reporter, &candidate, now).await?),
            Ok(Some(_)) if candidate.is_settling => {}
            Ok(Some((line, stripe))) => {
                frozen.differing += 1;
                let reported = candidate.lines.get(&line).map_or(0, |line| line.reported);
                error!(
                    account.id = %line.account, usage_type = line.usage_type, period.start = %instant(line.start), reported,
                    stripe, "Stripe's units differ from the reported units: the period is not frozen"
                );
            }
            Err(failure) => {
                let (account, start) = (candidate.period.account, instant(candidate.period.start));
                error!(account.id = %account, period.start = %start, "could not read Stripe's summaries: {failure}");
                if failure.is_passing() {
                    break;
                }
            }
        }
    }
    Ok(frozen)
}

/// Periods that are final, ended at least `FREEZE_AFTER` ago, and have no open or parked report.
async fn candidates(reporter: &Reporter, now: i64) -> sqlx::Result<Vec<Candidate>> {
    let margin = i64::try_from(reporter.settings.freeze_after.as_secs()).unwrap_or(i64::MAX);
    // In random order: periods that never agree must not block the others.
    let periods = sqlx::query!(
        r#"select p.account_id, p.period_start, coalesce(p.bills_at, p.period_end) as "bills_at!",
                  coalesce(p.reports_from, p.period_start) as "reports_from!", p.meter_slot, p.customer_id,
               p.stripe_subscription_id, p.plan_id, p.version_id, p.billed_by,
               exists (select from meter_reports r where r.account_id = p.account_id and r.period_start = p.period_start
                   and r.done_at > $3) as "is_settling!"
           from billing_periods p
           where p.frozen_at is null and p.final_at is not null and coalesce(p.bills_at, p.period_end) <= $1
               and not exists (select from meter_reports r where r.account_id = p.account_id
                   and r.period_start = p.period_start and r.state in ('open', 'parked'))
               and not exists (select from stripe_customers c where c.account_id = p.account_id and c.livemode <> $4)
           order by random() limit $2"#,
        instant(now.saturating_sub(margin)),
        PERIODS_MAX,
        instant(now - SUMMARY_LAG),
        reporter.stripe.is_live()
    )
    .fetch_all(&reporter.db)
    .await?;
    let (accounts, starts): (Vec<_>, Vec<_>) = periods.iter().map(|row| (row.account_id, row.period_start)).unzip();
    let lines = sqlx::query!(
        r#"select l.account_id, l.period_start, l.usage_type, reported_units, carried_in, carried_out, corrected_units, reports,
               exists (select from segment_prices s where s.account_id = l.account_id and s.period_start = l.period_start
                   and s.usage_type = l.usage_type) as "costs!"
           from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)
               join meter_ledger l on l.account_id = p.account_id and l.period_start = p.period_start"#,
        &accounts,
        &starts
    )
    .fetch_all(&reporter.db)
    .await?;
    let mut by_period: HashMap<count::AccountPeriod, HashMap<LineId, Line>> = HashMap::new();
    let mut costly: HashMap<count::AccountPeriod, HashSet<LineId>> = HashMap::new();
    for row in lines {
        let id = LineId::of_row(row.account_id, row.period_start, row.usage_type);
        let line = Line {
            reported: row.reported_units,
            carried_in: row.carried_in,
            carried_out: row.carried_out,
            corrected: row.corrected_units,
            reports: row.reports,
        };
        let period = (id.account, id.start);
        if row.costs {
            costly.entry(period).or_default().insert(id.clone());
        }
        by_period.entry(period).or_default().insert(id, line);
    }
    Ok(periods
        .into_iter()
        .filter_map(|row| {
            let period = BillingPeriod {
                account: AccountId(row.account_id),
                start: row.period_start.unix_timestamp(),
                from: row.reports_from.unix_timestamp(),
                end: row.bills_at.unix_timestamp(),
                meter_slot: row.meter_slot,
                customer: row.customer_id,
                subscription: row.stripe_subscription_id,
                plan: row.plan_id,
                version: row.version_id,
                final_at: None,
                billed_by: BilledBy::from_stored(&row.billed_by),
            };
            Some(Candidate {
                // None: the period was never counted.
                lines: by_period.remove(&(period.account, period.start))?,
                costly: costly.remove(&(period.account, period.start)).unwrap_or_default(),
                period,
                is_settling: row.is_settling,
            })
        })
        .collect())
}

/// Returns the first line for which Stripe's units differ from the reported units.
async fn agrees(reporter: &Reporter, candidate: &Candidate) -> Result<Option<(LineId, i64)>, StripeError> {
    let reported: Vec<_> = candidate
        .lines
        .iter()
        // What a brief period reports may be in another minute.
        .filter(|(id, line)| line.reports > 0 && (!candidate.period.is_brief() || candidate.costly.contains(*id)))
        .map(|(id, line)| (id.clone(), line.reported))
        .collect();
    let mut answers = stream::iter(reported)
        .map(async |(id, reported)| {
            let stripe = reporter.stripe.of(candidate.period.account);
            let units = reporter.meters.units(&stripe, &candidate.period, &id.usage_type).await;
            units.map(|units| (id, reported, units))
        })
        .buffer_unordered(READS_AT_ONCE);
    while let Some(answer) = answers.next().await {
        let (id, reported, units) = answer?;
        if units != reported {
            return Ok(Some((id, units)));
        }
    }
    Ok(None)
}

/// Counts once more, then freezes the period if the ledger's lines have not changed since they were read. `false`: something
/// has changed or does not agree, and the next step checks again. No transaction is open while ClickHouse counts: usage that is
/// stored after the count thaws the period.
async fn freeze(reporter: &Reporter, candidate: &Candidate, now: i64) -> Result<bool> {
    let (account, start) = (candidate.period.account, instant(candidate.period.start));
    let mut sums = count::sums(&reporter.clickhouse, &[(account, candidate.period.start)]).await?;
    let mut tx = reporter.db.begin().await.context("freezing a period")?;
    let rows = sqlx::query!(
        "select usage_type, reported_units, carried_in, carried_out, reports from meter_ledger
         where account_id = $1 and period_start = $2 and frozen_units is null for update skip locked",
        account.0,
        start
    )
    .fetch_all(&mut *tx)
    .await
    .context("freezing a period")?;
    let open = sqlx::query_scalar!(
        r#"select exists (select from meter_reports
               where account_id = $1 and period_start = $2 and state in ('open', 'parked')) as "open!""#,
        account.0,
        start
    )
    .fetch_one(&mut *tx)
    .await
    .context("freezing a period")?;
    if open || rows.len() != candidate.lines.len() {
        return Ok(false);
    }
    let (mut usage_types, mut units) = (Vec::new(), Vec::new());
    for row in rows {
        let id = LineId {
            account,
            start: candidate.period.start,
            usage_type: row.usage_type,
        };
        let counted = sums.remove(&id).unwrap_or(0);
        let Some(known) = candidate.lines.get(&id) else {
            return Ok(false);
        };
        let line = Line {
            reported: row.reported_units,
            carried_in: row.carried_in,
            carried_out: row.carried_out,
            reports: row.reports,
            ..*known
        };
        if line != *known || line.delta(counted) != Some(0) {
            return Ok(false);
        }
        usage_types.push(id.usage_type);
        units.push(counted);
    }
    // Usage of a type without a line.
    if sums.values().any(|units| *units != 0) {
        return Ok(false);
    }
    sqlx::query!(
        "update meter_ledger l set frozen_units = f.units from unnest($3::text[], $4::bigint[]) as f (usage_type, units)
         where l.account_id = $1 and l.period_start = $2 and l.usage_type = f.usage_type",
        account.0,
        start,
        &usage_types,
        &units
    )
    .execute(&mut *tx)
    .await
    .context("freezing a period")?;
    sqlx::query!(
        "update billing_periods set frozen_at = $3 where account_id = $1 and period_start = $2",
        account.0,
        start,
        instant(now)
    )
    .execute(&mut *tx)
    .await
    .context("freezing a period")?;
    tx.commit().await.context("freezing a period")?;
    info!(account.id = %account, period.start = %start, "froze a period");
    Ok(true)
}

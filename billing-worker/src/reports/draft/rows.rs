//! The statements of a draft.

use std::collections::{BTreeMap, HashMap, HashSet};

use protocol::reports::{
    identifier::LineId,
    ledger::Line,
    period::{BilledBy, BillingPeriod},
};
use schema::{AccountId, period::instant};
use sqlx::{PgExecutor, PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use tracing::warn;
use uuid::Uuid;

use super::Draft;
use crate::reports::{
    Reporter, count,
    page::{Locked, Page},
};

pub(super) async fn periods(
    reporter: &Reporter,
    accounts: &[AccountId],
    now: i64,
) -> sqlx::Result<HashMap<AccountId, Vec<BillingPeriod>>> {
    let rows = sqlx::query!(
        r#"select account_id, period_start, coalesce(bills_at, period_end) as "bills_at!",
                  coalesce(reports_from, period_start) as "reports_from!", meter_slot, customer_id,
               stripe_subscription_id, plan_id, version_id, final_at, billed_by
           from billing_periods where frozen_at is null and account_id = any($1) and period_start <= $2
               and not (is_held and final_at is null)"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(now)
    )
    .fetch_all(&reporter.db)
    .await?;
    let mut periods: HashMap<AccountId, Vec<BillingPeriod>> = HashMap::new();
    for row in rows {
        let account = AccountId(row.account_id);
        periods.entry(account).or_default().push(BillingPeriod {
            account,
            start: row.period_start.unix_timestamp(),
            from: row.reports_from.unix_timestamp(),
            end: row.bills_at.unix_timestamp(),
            meter_slot: row.meter_slot,
            customer: row.customer_id,
            subscription: row.stripe_subscription_id,
            plan: row.plan_id,
            version: row.version_id,
            final_at: row.final_at.map(OffsetDateTime::unix_timestamp),
            billed_by: BilledBy::from_stored(&row.billed_by),
        });
    }
    Ok(periods)
}

/// Adds a line for each period and each usage type of the catalogue. In a fixed order: two workers that add the same lines cannot
/// deadlock.
pub(super) async fn add_lines(reporter: &Reporter, accounts: &[AccountId], now: i64) -> sqlx::Result<()> {
    let usage_types: Vec<_> = reporter
        .catalogue
        .usage_types()
        .iter()
        .map(|usage_type| usage_type.name().to_owned())
        .collect();
    sqlx::query!(
        "insert into meter_ledger (account_id, period_start, usage_type)
         select p.account_id, p.period_start, t.usage_type
         from billing_periods p cross join unnest($3::text[]) as t (usage_type)
         where p.frozen_at is null and p.account_id = any($1) and p.period_start <= $2
             and not (p.is_held and p.final_at is null)
             and not exists (select from meter_ledger l where l.account_id = p.account_id
                 and l.period_start = p.period_start and l.usage_type = t.usage_type)
         order by p.account_id, p.period_start, t.usage_type
         on conflict do nothing",
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(now),
        &usage_types
    )
    .execute(&reporter.db)
    .await?;
    Ok(())
}

/// A row of the ledger.
struct LedgerRow {
    account_id: Uuid,
    usage_type: String,
    period_start: OffsetDateTime,
    reported_units: i64,
    carried_in: i64,
    carried_out: i64,
    corrected_units: i64,
    reports: i32,
    drift_units: i64,
}

impl LedgerRow {
    fn into_line(self) -> (LineId, Locked) {
        let locked = Locked {
            line: Line {
                reported: self.reported_units,
                carried_in: self.carried_in,
                carried_out: self.carried_out,
                corrected: self.corrected_units,
                reports: self.reports,
            },
            credits: 0,
            drift: self.drift_units,
            changed: false,
        };
        (
            LineId::of_row(self.account_id, self.period_start, self.usage_type),
            locked,
        )
    }
}

/// All lines of the periods, without a lock.
pub(super) async fn read(db: &PgPool, periods: &[count::AccountPeriod]) -> sqlx::Result<BTreeMap<LineId, Locked>> {
    let (accounts, starts): (Vec<_>, Vec<_>) = periods.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let rows = sqlx::query_as!(
        LedgerRow,
        "select l.account_id, l.usage_type, l.period_start, reported_units, carried_in, carried_out, corrected_units,
                reports, drift_units
         from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)
             join meter_ledger l on l.account_id = p.account_id and l.period_start = p.period_start
         where l.frozen_units is null",
        &accounts,
        &starts
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(LedgerRow::into_line).collect())
}

/// Locks the lines. Lines that another worker holds are left to it.
pub(super) async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    periods: &[count::AccountPeriod],
) -> sqlx::Result<BTreeMap<LineId, Locked>> {
    let (accounts, starts): (Vec<_>, Vec<_>) = periods.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let rows = sqlx::query_as!(
        LedgerRow,
        "select l.account_id, l.usage_type, l.period_start, reported_units, carried_in, carried_out, corrected_units,
                reports, drift_units
         from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)
             join meter_ledger l on l.account_id = p.account_id and l.period_start = p.period_start
         where l.frozen_units is null
         for update of l skip locked",
        &accounts,
        &starts
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(LedgerRow::into_line).collect())
}

pub(super) async fn busy(db: impl PgExecutor<'_>, accounts: &[AccountId]) -> sqlx::Result<HashSet<LineId>> {
    let rows = sqlx::query!(
        "select account_id, usage_type, period_start from meter_reports
         where state in ('open', 'parked') and account_id = any($1)",
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| LineId::of_row(row.account_id, row.period_start, row.usage_type))
        .collect())
}

/// Writes reports; returns the lines that have one now. A line is left for the next step if another period of the customer has an
/// open report.
pub(super) async fn insert(
    tx: &mut Transaction<'_, Postgres>,
    drafts: &[Draft],
    now: i64,
) -> sqlx::Result<HashSet<LineId>> {
    let column = |of: fn(&Draft) -> String| drafts.iter().map(of).collect::<Vec<_>>();
    let units = |of: fn(&Draft) -> i64| drafts.iter().map(of).collect::<Vec<_>>();
    let at = |of: fn(&Draft) -> i64| drafts.iter().map(|draft| instant(of(draft))).collect::<Vec<_>>();
    let rows = sqlx::query!(
        "insert into meter_reports (id, identifier, account_id, usage_type, period_start, customer_id, from_units, to_units,
             reported_for, next_attempt_at, created_at)
         select d.*, $10, $10
         from unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::timestamptz[], $6::text[], $7::bigint[],
             $8::bigint[], $9::timestamptz[]) as d
         on conflict do nothing
         returning account_id, usage_type, period_start",
        &drafts.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>(),
        &column(|draft| draft.identifier.clone()),
        &drafts.iter().map(|draft| draft.line.account.0).collect::<Vec<_>>(),
        &column(|draft| draft.line.usage_type.clone()),
        &at(|draft| draft.line.start),
        &column(|draft| draft.customer.clone()),
        &units(|draft| draft.from),
        &units(|draft| draft.to),
        &at(|draft| draft.reported_for),
        instant(now)
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| LineId::of_row(row.account_id, row.period_start, row.usage_type))
        .collect())
}

pub(super) async fn store(tx: &mut Transaction<'_, Postgres>, page: &Page, now: i64) -> sqlx::Result<()> {
    let changed: Vec<_> = page.lines.iter().filter(|(_, locked)| locked.changed).collect();
    let column = |of: fn(&Locked) -> i64| changed.iter().map(|(_, locked)| of(locked)).collect::<Vec<_>>();
    sqlx::query!(
        "update meter_ledger l set carried_in = c.carried_in, carried_out = c.carried_out,
             corrected_units = c.corrected_units, reports = c.reports, drift_units = c.drift_units,
             drift_since = case when c.drift_units <> 0 then coalesce(l.drift_since, $9) end
         from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[],
             $8::bigint[]) as c (account_id, period_start, usage_type, carried_in, carried_out, corrected_units, reports,
             drift_units)
         where l.account_id = c.account_id and l.period_start = c.period_start and l.usage_type = c.usage_type",
        &changed.iter().map(|(id, _)| id.account.0).collect::<Vec<_>>(),
        &changed.iter().map(|(id, _)| instant(id.start)).collect::<Vec<_>>(),
        &changed.iter().map(|(id, _)| id.usage_type.clone()).collect::<Vec<_>>(),
        &column(|locked| locked.line.carried_in),
        &column(|locked| locked.line.carried_out),
        &column(|locked| locked.line.corrected),
        &changed.iter().map(|(_, locked)| locked.line.reports).collect::<Vec<_>>(),
        &column(|locked| locked.drift),
        instant(now)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn add_strange(reporter: &Reporter, lines: &[LineId]) -> sqlx::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let added = sqlx::query!(
        "insert into meter_ledger (account_id, period_start, usage_type)
         select * from unnest($1::uuid[], $2::timestamptz[], $3::text[]) on conflict do nothing",
        &lines.iter().map(|line| line.account.0).collect::<Vec<_>>(),
        &lines.iter().map(|line| instant(line.start)).collect::<Vec<_>>(),
        &lines.iter().map(|line| line.usage_type.clone()).collect::<Vec<_>>()
    )
    .execute(&reporter.db)
    .await?
    .rows_affected();
    if added > 0 {
        warn!(
            lines = added,
            "usage of types that are not in the catalogue is reported too"
        );
    }
    Ok(())
}

//! Counts a page of accounts and writes what Stripe is to be told, before anybody tells it.
//!
//! What it promises: whoever counts holds the lines of the ledger that it decides on, from before its count to its commit, so
//! no count is older than the ledger it is held against; a line with a report that is not done is left alone.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result};
use schema::{AccountId, period::instant};
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Reporter, carry, count,
    identifier::{LineId, identifier},
    ledger::{Decision, Line},
    period::{BillingPeriod, Way},
};

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafted {
    pub reports: u64,
    pub carries: u64,
    /// Lines that lie below what was told, found by this count.
    pub drifts: u64,
}

/// A locked line of the ledger.
#[derive(Clone, Debug)]
pub(super) struct Locked {
    pub line: Line,
    pub drift: i64,
    changed: bool,
}

struct Draft {
    line: LineId,
    identifier: String,
    customer: String,
    from: i64,
    to: i64,
    reported_for: i64,
}

/// The locked lines of a page of accounts, and all their periods.
pub(super) struct Page {
    pub lines: BTreeMap<LineId, Locked>,
    pub periods: HashMap<AccountId, Vec<BillingPeriod>>,
}

pub async fn page(reporter: &Reporter, accounts: &[AccountId], now: i64) -> Result<Drafted> {
    let periods = periods(reporter, accounts, now)
        .await
        .context("reading billing periods")?;
    let pairs: Vec<_> = periods
        .values()
        .flatten()
        .map(|period| (period.account, period.start))
        .collect();
    add_lines(reporter, accounts, now)
        .await
        .context("adding lines to the ledger")?;

    let mut tx = reporter.db.begin().await.context("locking the ledger")?;
    let lines = lock(&mut tx, &pairs).await.context("locking the ledger")?;
    let mut page = Page { lines, periods };
    // In a statement of its own, after the locks: it sees whatever those who had them before have written.
    let busy = busy(&mut tx, accounts).await.context("reading open reports")?;
    let mut drafted = Drafted {
        carries: carry::arrive(&mut tx, &mut page, accounts, now)
            .await
            .context("settling carries")?,
        ..Drafted::default()
    };
    let sums = count::sums(&reporter.clickhouse, &pairs).await?;
    let strange = strange(&sums, &page, reporter);
    let below: Vec<LineId> = page
        .lines
        .iter()
        .filter(|(id, locked)| {
            !busy.contains(*id) && locked.line.delta(counted(&sums, id)).is_none_or(|delta| delta < 0)
        })
        .map(|(id, _)| id.clone())
        .collect();
    let credits = credits(&mut tx, reporter, &below).await?;

    let mut drafts = Vec::new();
    // From the oldest period on: what it hands on is counted in the next one.
    for id in page.lines.keys().cloned().collect::<Vec<_>>() {
        let (Some(period), false) = (page.period(&id).cloned(), busy.contains(&id)) else {
            continue;
        };
        let Some(line) = page.lines.get(&id).map(|locked| locked.line) else {
            continue;
        };
        let decision = line.decide(
            counted(&sums, &id),
            credits.get(&id).copied().unwrap_or(0),
            period.way(now),
        );
        let drift = match decision {
            Decision::Drift { units } => units,
            _ => 0,
        };
        drafted.drifts += u64::from(page.drifted(&id, drift));
        match decision {
            Decision::Even | Decision::Drift { .. } => {}
            Decision::Report { from, to, reported_for } => {
                let number = line.reports + 1;
                drafts.push(Draft {
                    identifier: identifier(&period.customer, &id, number, from, to),
                    line: id,
                    customer: period.customer,
                    from,
                    to,
                    reported_for,
                });
            }
            Decision::Carry { units, late } => {
                let (line, period) = (&id, &period);
                let late = carry::Late {
                    line,
                    period,
                    units,
                    why: late,
                };
                let written = carry::write(&mut tx, &mut page, late, reporter.settings.late_usage, now).await;
                drafted.carries += u64::from(written.context("writing a carry")?);
            }
        }
    }
    for id in insert(&mut tx, &drafts, now).await.context("writing reports")? {
        drafted.reports += 1;
        page.change(&id, |line| line.reports += 1);
    }
    store(&mut tx, &page, now).await.context("writing the ledger")?;
    tx.commit().await.context("writing reports")?;
    add_strange(reporter, &strange)
        .await
        .context("adding lines to the ledger")?;
    Ok(drafted)
}

impl Page {
    pub fn period(&self, line: &LineId) -> Option<&BillingPeriod> {
        let periods = self.periods.get(&line.account)?;
        periods.iter().find(|period| period.start == line.start)
    }

    /// The line that takes what came too late for `line`. `Err`: it is not ours to change now.
    pub fn next(&self, line: &LineId, now: i64) -> Result<Option<LineId>, ()> {
        let later = self.periods.get(&line.account).into_iter().flatten();
        let next = later
            .filter(|period| period.start > line.start && matches!(period.way(now), Way::Report { .. }))
            .min_by_key(|period| period.start);
        let Some(period) = next else { return Ok(None) };
        let next = LineId {
            start: period.start,
            ..line.clone()
        };
        if self.lines.contains_key(&next) {
            Ok(Some(next))
        } else {
            Err(())
        }
    }

    pub fn change(&mut self, line: &LineId, change: impl FnOnce(&mut Line)) {
        if let Some(locked) = self.lines.get_mut(line) {
            change(&mut locked.line);
            locked.changed = true;
        }
    }

    /// Notes how far a line lies below what was told; tells whether that is news of a drift.
    fn drifted(&mut self, id: &LineId, drift: i64) -> bool {
        let Some(locked) = self.lines.get_mut(id) else {
            return false;
        };
        if locked.drift == drift {
            return false;
        }
        (locked.drift, locked.changed) = (drift, true);
        let (account, start) = (id.account, instant(id.start));
        if drift == 0 {
            info!(account.id = %account, usage_type = id.usage_type, period.start = %start, "the drift is gone");
            return false;
        }
        error!(
            account.id = %account, usage_type = id.usage_type, period.start = %start, units = drift,
            "fewer units in ClickHouse than Stripe was told, and no correction explains it: nothing is sent"
        );
        true
    }
}

fn counted(sums: &HashMap<LineId, i64>, line: &LineId) -> i64 {
    sums.get(line).copied().unwrap_or(0)
}

async fn periods(
    reporter: &Reporter,
    accounts: &[AccountId],
    now: i64,
) -> sqlx::Result<HashMap<AccountId, Vec<BillingPeriod>>> {
    let rows = sqlx::query!(
        "select account_id, period_start, period_end, customer_id, stripe_subscription_id, final_at from billing_periods
         where frozen_at is null and account_id = any($1) and period_start <= $2",
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
            end: row.period_end.unix_timestamp(),
            customer: row.customer_id,
            subscription: row.stripe_subscription_id,
            final_at: row.final_at.map(OffsetDateTime::unix_timestamp),
        });
    }
    Ok(periods)
}

/// A line for each period and each usage type of the catalogue. In their order: two workers that add the same ones wait for
/// each other one way only.
async fn add_lines(reporter: &Reporter, accounts: &[AccountId], now: i64) -> sqlx::Result<()> {
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

/// Lines that another worker holds are left to it.
async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    periods: &[count::AccountPeriod],
) -> sqlx::Result<BTreeMap<LineId, Locked>> {
    let (accounts, starts): (Vec<_>, Vec<_>) = periods.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let rows = sqlx::query!(
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
    Ok(rows
        .into_iter()
        .map(|row| {
            let id = LineId {
                account: AccountId(row.account_id),
                start: row.period_start.unix_timestamp(),
                usage_type: row.usage_type,
            };
            let locked = Locked {
                line: Line {
                    reported: row.reported_units,
                    carried_in: row.carried_in,
                    carried_out: row.carried_out,
                    corrected: row.corrected_units,
                    reports: row.reports,
                },
                drift: row.drift_units,
                changed: false,
            };
            (id, locked)
        })
        .collect())
}

async fn busy(tx: &mut Transaction<'_, Postgres>, accounts: &[AccountId]) -> sqlx::Result<HashSet<LineId>> {
    let rows = sqlx::query!(
        "select account_id, usage_type, period_start from meter_reports
         where state in ('open', 'parked') and account_id = any($1)",
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>()
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| LineId {
            account: AccountId(row.account_id),
            start: row.period_start.unix_timestamp(),
            usage_type: row.usage_type,
        })
        .collect())
}

/// What may explain that these lines lie below what was told: corrections, and credits that were carried in.
async fn credits(
    tx: &mut Transaction<'_, Postgres>,
    reporter: &Reporter,
    lines: &[LineId],
) -> Result<HashMap<LineId, i64>> {
    if lines.is_empty() {
        return Ok(HashMap::new());
    }
    let mut pairs: Vec<_> = lines.iter().map(|line| (line.account, line.start)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut credits = count::corrections(&reporter.clickhouse, &pairs).await?;
    let (accounts, starts): (Vec<_>, Vec<_>) = pairs.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let carried = sqlx::query!(
        r#"select c.account_id, c.usage_type, c.to_period as "to_period!", sum(c.units)::bigint as "units!"
           from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)
               join meter_carries c on c.account_id = p.account_id and c.to_period = p.period_start
           where c.units < 0 group by c.account_id, c.usage_type, c.to_period"#,
        &accounts,
        &starts
    )
    .fetch_all(&mut **tx)
    .await
    .context("reading carried credits")?;
    for row in carried {
        let line = LineId {
            account: AccountId(row.account_id),
            start: row.to_period.unix_timestamp(),
            usage_type: row.usage_type,
        };
        let units = credits.entry(line).or_default();
        *units = units.saturating_add(row.units);
    }
    Ok(credits)
}

/// The lines that now have a report. One that another period of the customer's has open stands in the way: next time.
async fn insert(tx: &mut Transaction<'_, Postgres>, drafts: &[Draft], now: i64) -> sqlx::Result<Vec<LineId>> {
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
        .map(|row| LineId {
            account: AccountId(row.account_id),
            start: row.period_start.unix_timestamp(),
            usage_type: row.usage_type,
        })
        .collect())
}

async fn store(tx: &mut Transaction<'_, Postgres>, page: &Page, now: i64) -> sqlx::Result<()> {
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

/// Usage of types that the catalogue has no more: it was used, and its meter is still there.
fn strange(sums: &HashMap<LineId, i64>, page: &Page, reporter: &Reporter) -> Vec<LineId> {
    let mut strange: Vec<_> = sums
        .keys()
        .filter(|id| reporter.catalogue.usage_type(&id.usage_type).is_none() && !page.lines.contains_key(*id))
        .cloned()
        .collect();
    strange.sort_unstable();
    strange
}

async fn add_strange(reporter: &Reporter, lines: &[LineId]) -> sqlx::Result<()> {
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

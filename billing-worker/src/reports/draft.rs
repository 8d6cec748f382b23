//! Counts a page of accounts and writes the reports to send, before they are sent.
//!
//! A line is read before its usage is counted, and locked afterwards. If it has changed in between, it is left for the next step.
//! So no count is older than the line that it is compared with. No transaction is open while ClickHouse counts. A line with an
//! unfinished report is not touched.

mod rows;

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use protocol::reports::{
    identifier::{LineId, identifier},
    ledger::Decision,
    period::BillingPeriod,
};
use schema::AccountId;

use super::{
    Reporter, carry, close,
    count::{self, AccountPeriod},
    credits,
    page::{Locked, Page},
};

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Drafted {
    pub reports: u64,
    pub carries: u64,
    /// Lines that this count found to have fewer units than were reported.
    pub drifts: u64,
    /// Lines that may have units to report and were left: another worker holds or changed them, or an open report blocks them.
    pub held: Vec<LineId>,
    /// Periods with units to report whose invoice may be final: held until Stripe was asked.
    pub overdue: Vec<BillingPeriod>,
}

/// A report to be written.
struct Draft {
    line: LineId,
    identifier: String,
    customer: String,
    from: i64,
    to: i64,
    reported_for: i64,
}

/// `asked`: periods that are over and for whose invoices Stripe was just asked.
pub async fn page(
    reporter: &Reporter,
    accounts: &[AccountId],
    now: i64,
    asked: &HashSet<AccountPeriod>,
) -> Result<Drafted> {
    let periods = rows::periods(reporter, accounts, now)
        .await
        .context("reading billing periods")?;
    let pairs: Vec<_> = periods
        .values()
        .flatten()
        .map(|period| (period.account, period.start))
        .collect();
    rows::add_lines(reporter, accounts, now)
        .await
        .context("adding lines to the ledger")?;

    let arrived = arrive(reporter, accounts, &periods, &pairs, now)
        .await
        .context("settling carries")?;
    let lines = rows::read(&reporter.db, &pairs).await.context("reading the ledger")?;
    let mut page = Page { lines, periods };
    let mut busy = rows::busy(&reporter.db, accounts)
        .await
        .context("reading open reports")?;
    let known = credits::read(&reporter.db, &pairs).await.context("reading credits")?;
    page.explain(&known);
    // Before the sums: a correction that is counted here is in the sums too.
    let stored = count::corrections(&reporter.clickhouse, &page.unsettled(&busy)).await?;
    let sums = count::sums(&reporter.clickhouse, &pairs).await?;
    let strange = strange(&sums, &page, reporter);
    // After the sums: a correction that is in the sums is read here too.
    let below = page.below(&busy, &sums);
    page.explain(&credits::read(&reporter.db, &below).await.context("reading credits")?);

    let mut tx = reporter.db.begin().await.context("locking the ledger")?;
    let locked = rows::lock(&mut tx, &pairs).await.context("locking the ledger")?;
    let mut drafted = Drafted {
        carries: arrived,
        held: page.keep_unchanged(&locked),
        ..Drafted::default()
    };
    // Read after locking, so that this sees the reports of the previous lock holders.
    busy.extend(rows::busy(&mut *tx, accounts).await.context("reading open reports")?);
    let occupied: HashSet<_> = busy.iter().map(|id| (id.account, id.usage_type.clone())).collect();
    let mut drafts = Vec::new();
    // From the oldest period on: units that it carries out are counted in the next one.
    for id in page.lines.keys().cloned().collect::<Vec<_>>() {
        let (Some(period), false) = (page.period(&id).cloned(), busy.contains(&id)) else {
            continue;
        };
        let Some(&Locked { line, credits, .. }) = page.lines.get(&id) else {
            continue;
        };
        let counted = sums.get(&id).copied().unwrap_or(0);
        let decision = line.decide(counted, credits, period.way(now));
        if let Some(corrections) = stored.get(&id)
            && line.delta(counted).is_some_and(|delta| delta >= 0)
        {
            let carried = known.get(&id).map_or(0, |known| known.carried);
            page.change(&id, |line| line.net(corrections.saturating_add(carried)));
        }
        let drift = match decision {
            Decision::Drift { units } => units,
            _ => 0,
        };
        drafted.drifts += u64::from(page.drifted(&id, drift));
        match decision {
            Decision::Even | Decision::Wait | Decision::Drift { .. } => {}
            // One report at a time for a customer and a meter, across all periods.
            Decision::Report { .. } if occupied.contains(&(id.account, id.usage_type.clone())) => drafted.held.push(id),
            Decision::Report { .. } if close::is_due(&period, now) && !asked.contains(&(id.account, id.start)) => {
                drafted.held.push(id);
                if drafted.overdue.last() != Some(&period) {
                    drafted.overdue.push(period);
                }
            }
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
                let written = carry::write(&mut tx, &mut page, late, &reporter.settings, now).await;
                drafted.carries += u64::from(written.context("writing a carry")?);
            }
        }
    }
    let inserted = rows::insert(&mut tx, &drafts, now).await.context("writing reports")?;
    let left = drafts.into_iter().map(|draft| draft.line);
    drafted.held.extend(left.filter(|line| !inserted.contains(line)));
    for id in inserted {
        drafted.reports += 1;
        page.change(&id, |line| line.reports += 1);
    }
    rows::store(&mut tx, &page, now).await.context("writing the ledger")?;
    tx.commit().await.context("writing reports")?;
    rows::add_strange(reporter, &strange)
        .await
        .context("adding lines to the ledger")?;
    Ok(drafted)
}

/// Moves carries that wait for a next period into it, or makes them charges; returns how many moved.
async fn arrive(
    reporter: &Reporter,
    accounts: &[AccountId],
    periods: &HashMap<AccountId, Vec<BillingPeriod>>,
    pairs: &[AccountPeriod],
    now: i64,
) -> sqlx::Result<u64> {
    if !carry::are_waiting(&reporter.db, accounts).await? {
        return Ok(0);
    }
    let mut tx = reporter.db.begin().await?;
    let mut page = Page {
        lines: rows::lock(&mut tx, pairs).await?,
        periods: periods.clone(),
    };
    let arrived = carry::arrive(&mut tx, &mut page, accounts, &reporter.settings, now).await?;
    rows::store(&mut tx, &page, now).await?;
    tx.commit().await?;
    Ok(arrived)
}

/// Usage of types that are no longer in the catalogue: it was recorded, and its meter still exists.
fn strange(sums: &HashMap<LineId, i64>, page: &Page, reporter: &Reporter) -> Vec<LineId> {
    let mut strange: Vec<_> = sums
        .keys()
        .filter(|id| reporter.catalogue.usage_type(&id.usage_type).is_none() && !page.lines.contains_key(*id))
        .cloned()
        .collect();
    strange.sort_unstable();
    strange
}

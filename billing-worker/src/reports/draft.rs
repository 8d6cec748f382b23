//! Counts a page of accounts and writes what Stripe is to be told, before anybody tells it.
//!
//! What it promises: whoever counts holds the lines of the ledger that it decides on, from before its count to its commit, so
//! no count is older than the ledger it is held against; a line with a report that is not done is left alone.

mod page;
mod rows;

use std::collections::HashMap;

use anyhow::{Context, Result};
use schema::AccountId;

pub(super) use self::page::Page;
use super::{
    Reporter, carry, count,
    identifier::{LineId, identifier},
    ledger::Decision,
};

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafted {
    pub reports: u64,
    pub carries: u64,
    /// Lines that lie below what was told, found by this count.
    pub drifts: u64,
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

pub async fn page(reporter: &Reporter, accounts: &[AccountId], now: i64) -> Result<Drafted> {
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

    let mut tx = reporter.db.begin().await.context("locking the ledger")?;
    let lines = rows::lock(&mut tx, &pairs).await.context("locking the ledger")?;
    let mut page = Page { lines, periods };
    // In a statement of its own, after the locks: it sees whatever those who had them before have written.
    let busy = rows::busy(&mut tx, accounts).await.context("reading open reports")?;
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
    let credits = rows::credits(&mut tx, reporter, &below).await?;

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
    for id in rows::insert(&mut tx, &drafts, now).await.context("writing reports")? {
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

fn counted(sums: &HashMap<LineId, i64>, line: &LineId) -> i64 {
    sums.get(line).copied().unwrap_or(0)
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

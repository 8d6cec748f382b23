//! Compares ClickHouse, the ledger and Stripe, for operators and for accounting.

mod line_state;
mod question;
mod rows;
mod waiting;

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use protocol::reports::{identifier::LineId, period::BillingPeriod};
use schema::{AccountId, period::instant};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::{Duration, Instant, sleep};

use self::rows::{Period, Stored};
pub use self::{
    line_state::{LineState, Numbers},
    question::{Question, Which},
    waiting::Waiting,
};
use super::{
    Reporter, count,
    credits::{self, Credits},
};
use crate::stripe::StripeError;

const READS_AT_ONCE: usize = 16;

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub account_id: AccountId,
    pub customer_id: String,
    pub usage_type: String,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub period_end: OffsetDateTime,
    #[serde(flatten)]
    pub numbers: Numbers,
    /// Stripe's units (the ledger's if Stripe's are unknown) − (ClickHouse + carried in − carried out).
    pub drift: i64,
    pub state: LineState,
    pub frozen: bool,
    /// Late usage that is on no invoice yet.
    pub waiting: Option<Waiting>,
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub rows: u64,
    pub clickhouse_units: i64,
    pub carried_in: i64,
    pub carried_out: i64,
    pub ledger_units: i64,
    pub stripe_units: i64,
    pub drifting: u64,
    pub pending: u64,
    /// Lines with late usage that is on no invoice yet.
    pub open: u64,
    /// Of those: lines where this lasts for longer than `OPEN_MONEY_AFTER`.
    pub overdue: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Reconciliation {
    pub rows: Vec<Row>,
    pub totals: Totals,
}

/// Compares again until nothing is pending, for at most `wait`.
pub async fn run(reporter: &Reporter, question: &Question, wait: Duration, now: i64) -> Result<Reconciliation> {
    const BETWEEN: Duration = Duration::from_secs(2);
    let began = Instant::now();
    loop {
        let at = now + i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
        let reconciliation = reconcile(reporter, question, at).await?;
        if reconciliation.totals.pending == 0 || began.elapsed() + BETWEEN > wait {
            return Ok(reconciliation);
        }
        sleep(BETWEEN).await;
    }
}

async fn reconcile(reporter: &Reporter, question: &Question, now: i64) -> Result<Reconciliation> {
    let (mut found, mut after) = (Vec::new(), AccountId::NIL);
    loop {
        let accounts = rows::accounts(reporter, question, after)
            .await
            .context("reading accounts")?;
        let Some(last) = accounts.last() else { break };
        after = *last;
        let periods = rows::periods(reporter, question, &accounts, now)
            .await
            .context("reading billing periods")?;
        found.extend(page(reporter, question, &periods, now).await?);
    }
    let mut totals = Totals::default();
    for row in &found {
        totals.add(row, reporter.settings.open_money_after_s(), now);
    }
    Ok(Reconciliation { rows: found, totals })
}

async fn page(reporter: &Reporter, question: &Question, periods: &[Period], now: i64) -> Result<Vec<Row>> {
    // Read before ClickHouse is asked. Then a report that is delivered meanwhile looks like unreported units, never like drift.
    let mut lines = rows::lines(reporter, periods, now)
        .await
        .context("reading the ledger")?;
    if question.recount {
        lines.values_mut().for_each(|stored| stored.frozen_units = None);
    }
    let counted: Vec<_> = periods
        .iter()
        .filter(|period| question.recount || !period.is_frozen)
        .map(|period| (period.period.account, period.period.start))
        .collect();
    let sums = count::sums(&reporter.clickhouse, &counted).await?;
    let below: Vec<_> = lines
        .iter()
        .filter(|(id, stored)| stored.open.is_none() && stored.line.delta(units(&sums, id, stored)) < Some(0))
        .map(|(id, _)| (id.account, id.start))
        .collect();
    let credits = credits::read(&reporter.db, &below).await.context("reading credits")?;

    let by_id: HashMap<count::AccountPeriod, &Period> = periods
        .iter()
        .map(|period| ((period.period.account, period.period.start), period))
        .collect();
    // Usage that is not in the ledger yet.
    let mut ids: BTreeMap<&LineId, Option<&Stored>> = sums.keys().map(|id| (id, None)).collect();
    ids.extend(lines.iter().map(|(id, stored)| (id, Some(stored))));
    let compared = ids.into_iter().filter_map(|(id, stored)| {
        let period = *by_id.get(&(id.account, id.start))?;
        let clickhouse_units =
            stored.map_or_else(|| sums.get(id).copied().unwrap_or(0), |stored| units(&sums, id, stored));
        let credits = credits.get(id).map_or(0, Credits::total);
        Some(row(reporter, period, id, stored, clickhouse_units, credits))
    });
    stream::iter(compared).buffered(READS_AT_ONCE).try_collect().await
}

async fn row(
    reporter: &Reporter,
    period: &Period,
    id: &LineId,
    stored: Option<&Stored>,
    clickhouse_units: i64,
    credits: i64,
) -> Result<Row> {
    let line = stored.map(|stored| stored.line).unwrap_or_default();
    let stripe = match line.reports {
        // Nothing was ever reported: Stripe need not be asked.
        0 => Ok(Some(0)),
        _ => stripe_units(reporter, &period.period, &id.usage_type).await?,
    };
    let (stripe_units, mut note) = match stripe {
        Ok(units) => (units, None),
        Err(why) => (None, Some(why)),
    };
    let numbers = Numbers {
        clickhouse_units,
        carried_in: line.carried_in,
        carried_out: line.carried_out,
        ledger_units: line.reported,
        open_units: stored.and_then(|stored| stored.open).map_or(0, |(units, _)| units),
        stripe_units,
    };
    if stored
        .and_then(|stored| stored.open)
        .is_some_and(|(_, is_parked)| is_parked)
    {
        note.get_or_insert_with(|| "its report is parked".to_owned());
    }
    let explained = credits.saturating_sub(line.corrected).min(0);
    let waiting = stored.and_then(|stored| stored.waiting.clone());
    let state = match numbers.state(explained, stored.is_some_and(|stored| stored.is_settling)) {
        LineState::Ok if waiting.is_some() => LineState::Open,
        state => state,
    };
    if let Some(waiting) = &waiting {
        note.get_or_insert_with(|| waiting.to_string());
    }
    Ok(Row {
        account_id: id.account,
        customer_id: period.period.customer.clone(),
        usage_type: id.usage_type.clone(),
        period_start: instant(id.start),
        period_end: instant(period.ends_at),
        drift: numbers.drift(),
        numbers,
        state,
        frozen: period.is_frozen,
        waiting,
        note,
    })
}

/// The inner error: Stripe refuses the call. The outer error: Stripe is unavailable.
async fn stripe_units(
    reporter: &Reporter,
    period: &BillingPeriod,
    usage_type: &str,
) -> Result<Result<Option<i64>, String>> {
    let stripe = reporter.stripe.of(period.account);
    match reporter.meters.units(&stripe, period, usage_type).await {
        Ok(units) => Ok(Ok(Some(units))),
        Err(StripeError::Refused(refusal)) => Ok(Err(refusal.to_string())),
        Err(error) => Err(error).context("reading Stripe's summaries"),
    }
}

fn units(sums: &HashMap<LineId, i64>, id: &LineId, stored: &Stored) -> i64 {
    let summed = sums.get(id).copied();
    summed.or(stored.frozen_units).unwrap_or(0)
}

impl Totals {
    fn add(&mut self, row: &Row, overdue_after_s: i64, now: i64) {
        let numbers = &row.numbers;
        self.rows += 1;
        for (total, units) in [
            (&mut self.clickhouse_units, numbers.clickhouse_units),
            (&mut self.carried_in, numbers.carried_in),
            (&mut self.carried_out, numbers.carried_out),
            (&mut self.ledger_units, numbers.ledger_units),
            (&mut self.stripe_units, numbers.stripe_units.unwrap_or(0)),
        ] {
            *total = total.saturating_add(units);
        }
        self.drifting += u64::from(row.state == LineState::Drift);
        self.pending += u64::from(row.state == LineState::Pending);
        self.open += u64::from(row.waiting.is_some());
        let is_overdue = |waiting: &Waiting| waiting.is_older(overdue_after_s, now);
        self.overdue += u64::from(row.waiting.as_ref().is_some_and(is_overdue));
    }
}

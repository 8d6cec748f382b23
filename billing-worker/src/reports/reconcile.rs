//! Compares ClickHouse, the ledger and Stripe, in units and in money, for operators and for accounting.

mod line_state;
mod question;
mod rows;
mod stuck;
mod totals;
mod waiting;

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use protocol::reports::{identifier::LineId, period::BillingPeriod};
use schema::{AccountId, period::instant};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::{Duration, Instant, sleep};

pub(super) use self::rows::accounts;
use self::rows::{Period, Stored};
pub use self::{
    line_state::{LineState, Numbers},
    question::{Question, Which},
    totals::Totals,
    waiting::Waiting,
};
use super::{
    Reporter, count,
    credits::{self, Credits},
    money::{self, Asked, PeriodMoney, Units},
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
    pub difference_units: i64,
    pub state: LineState,
    /// Of a pending line: units that are not reported although they are in ClickHouse for too long. Negative: credits.
    pub stuck_units: i64,
    pub frozen: bool,
    /// Late usage that is on no invoice yet.
    pub waiting: Option<Waiting>,
    pub note: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Reconciliation {
    /// Units, by account, period and usage type.
    pub rows: Vec<Row>,
    /// Money, by account and period.
    pub money: Vec<PeriodMoney>,
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
    let (mut found, mut after) = (Reconciliation::default(), AccountId::NIL);
    loop {
        let accounts = rows::accounts(reporter, question, after)
            .await
            .context("reading accounts")?;
        let Some(last) = accounts.last() else { break };
        after = *last;
        let page = of_accounts(reporter, question, &accounts, now).await?;
        found.rows.extend(page.rows);
        found.money.extend(page.money);
        found.totals.add(&page.totals);
    }
    Ok(found)
}

/// A page of accounts.
pub async fn of_accounts(
    reporter: &Reporter,
    question: &Question,
    accounts: &[AccountId],
    now: i64,
) -> Result<Reconciliation> {
    let periods = rows::periods(reporter, question, accounts, now)
        .await
        .context("reading billing periods")?;
    let mut rows = units(reporter, question, &periods, now).await?;
    stuck::mark(reporter, &periods, &mut rows, now).await?;
    let asked: Vec<_> = periods
        .iter()
        .map(|period| Asked {
            period: &period.period,
            ends_at: period.ends_at,
        })
        .collect();
    let counted = rows.iter().map(|row| {
        let numbers = &row.numbers;
        let id = LineId::of_row(row.account_id.0, row.period_start, row.usage_type.clone());
        let units = Units {
            counted: numbers.clickhouse_units,
            carried_in: numbers.carried_in,
            carried_out: numbers.carried_out,
            reported: numbers.ledger_units,
        };
        (id, units)
    });
    let money = money::compare(reporter, &asked, &counted.collect(), question.source, now).await?;
    let totals = Totals::of(&rows, &money, reporter.settings.open_money_after_s(), now);
    Ok(Reconciliation { rows, money, totals })
}

async fn units(reporter: &Reporter, question: &Question, periods: &[Period], now: i64) -> Result<Vec<Row>> {
    // Read before ClickHouse is asked. Then a report that is delivered meanwhile looks like unreported units, never like a loss.
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
        .filter(|(id, stored)| stored.open.is_none() && stored.line.delta(counted_units(&sums, id, stored)) < Some(0))
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
    // A closure over references is not general enough for a task.
    let mut compared = Vec::new();
    for (id, stored) in ids {
        let Some(period) = by_id.get(&(id.account, id.start)) else {
            continue;
        };
        let clickhouse_units = stored.map_or_else(
            || sums.get(id).copied().unwrap_or(0),
            |stored| counted_units(&sums, id, stored),
        );
        let credits = credits.get(id).map_or(0, Credits::total);
        compared.push(row(reporter, question, period, (id, stored), clickhouse_units, credits));
    }
    stream::iter(compared).buffered(READS_AT_ONCE).try_collect().await
}

async fn row(
    reporter: &Reporter,
    question: &Question,
    period: &Period,
    (id, stored): (&LineId, Option<&Stored>),
    clickhouse_units: i64,
    credits: i64,
) -> Result<Row> {
    let line = stored.map(|stored| stored.line).unwrap_or_default();
    let is_brief = period.period.is_brief() && stored.is_some_and(|stored| !stored.may_cost);
    let stripe = match line.reports {
        // Nothing was ever reported: Stripe need not be asked.
        0 => Ok(Some(0)),
        // They are in another minute, and cost nothing.
        _ if is_brief || !question.summaries => Ok(Some(line.reported)),
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
    let recent = stored.map(|stored| stored.recent).unwrap_or_default();
    let state = match numbers.state(explained, recent) {
        LineState::Ok if waiting.is_some() => LineState::Open,
        LineState::Pending if is_brief => LineState::Ok,
        state => state,
    };
    let difference_units = numbers.difference();
    if state == LineState::Difference && note.is_none() {
        note = Some(match (difference_units, numbers.stripe_units) {
            (units @ 1.., _) => format!("Stripe has {units} units too many"),
            (units, _) if units < 0 => format!("Stripe lacks {} units", units.saturating_neg()),
            _ => "Stripe and the ledger differ".to_owned(),
        });
    }
    if let Some(waiting) = &waiting {
        note.get_or_insert_with(|| waiting.to_string());
    }
    Ok(Row {
        account_id: id.account,
        customer_id: period.period.customer.clone(),
        usage_type: id.usage_type.clone(),
        period_start: instant(id.start),
        period_end: instant(period.ends_at),
        difference_units,
        numbers,
        state,
        stuck_units: 0,
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

fn counted_units(sums: &HashMap<LineId, i64>, id: &LineId, stored: &Stored) -> i64 {
    let summed = sums.get(id).copied();
    summed.or(stored.frozen_units).unwrap_or(0)
}

//! Metered usage: tells Stripe what ClickHouse has counted.
//!
//! What it promises (G4): of every customer, meter and billing period, units told to Stripe = `sum(cost_units)` in ClickHouse +
//! carried in − carried out, each carry a row. A report is in the database before it is sent, its identifier never changes,
//! and there is one at a time for a customer and a meter. Any number of workers may do this at once; a step may be cut off
//! anywhere.
//!
//! | what | file |
//! |---|---|
//! | settings | [`settings`] |
//! | a billing period: timestamps, whether it takes any more | [`period`] |
//! | sums and corrections in ClickHouse | [`count`] |
//! | a line of the ledger, and what a count means for it | [`ledger`] |
//! | a report's identifier | [`identifier`] |
//! | writing reports before they are sent | [`draft`] |
//! | a report's life: send, compare, wait, withdraw | [`report`] |
//! | what an answer of Stripe's proves | [`outcome`] |
//! | sending | [`send`] |
//! | telling all of one account at once | [`flush`](mod@flush) |
//! | what Stripe says it has | [`summary`] |
//! | closing periods whose invoice is final | [`close`] |
//! | usage that comes too late for its period | [`carry`], [`charge`], [`tiers`] |
//! | freezing what agrees everywhere, thawing what then changes | [`freeze`], [`thaw`] |
//! | ClickHouse, ledger and Stripe side by side | [`reconcile`] |
//! | lists for an operator | [`list`] |

pub mod carry;
pub mod charge;
pub mod close;
pub mod count;
pub mod credits;
pub mod draft;
pub mod flush;
pub mod freeze;
pub mod list;
pub mod metrics;
pub mod outcome;
pub mod period;
pub mod reconcile;
pub mod send;
pub mod settings;
pub mod summary;
pub mod thaw;
pub mod tiers;

pub use protocol::reports::{identifier, ledger, report};

use std::{collections::HashSet, sync::Arc};

use anyhow::{Context, Result, bail};
use clickhouse::Client;
use schema::{AccountId, Catalogue, period::instant};
use sqlx::PgPool;
use tokio::time::Instant;
use tracing::{info, warn};

pub use flush::{Flushed, flush};
pub use metrics::ReportMetrics;
pub use settings::{LateUsage, ReportSettings};

use self::{draft::Drafted, freeze::Frozen, identifier::LineId, send::Sent, send::Which, summary::Meters};
use crate::stripe::Stripe;

/// Accounts at once: one query of ClickHouse, one transaction, and what is in memory.
const PAGE: i64 = 500;
/// Rows of done reports deleted in one step, at the most.
const FORGOTTEN_MAX: i64 = 50_000;

/// Cheap to clone.
#[derive(Clone)]
pub struct Reporter {
    pub db: PgPool,
    pub clickhouse: Client,
    pub stripe: Stripe,
    pub catalogue: Arc<Catalogue>,
    pub settings: ReportSettings,
    pub metrics: ReportMetrics,
    pub meters: Arc<Meters>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Reports written.
    pub written: u64,
    pub sent: Sent,
    /// Carries written, or settled.
    pub carries: u64,
    /// Lines newly found to drift.
    pub drifts: u64,
    pub frozen: Frozen,
    /// Periods whose invoice was final, and no event had told.
    pub closed: u64,
    /// Frozen periods for which events have come after all.
    pub thawed: u64,
}

impl Reporter {
    pub fn new(
        db: PgPool,
        clickhouse: Client,
        stripe: Stripe,
        catalogue: Arc<Catalogue>,
        settings: ReportSettings,
        metrics: ReportMetrics,
    ) -> Self {
        Self {
            db,
            clickhouse,
            stripe,
            catalogue,
            settings,
            metrics,
            meters: Arc::default(),
        }
    }
}

/// Counts all accounts, tells Stripe what is new, and freezes what is done. To be called every `REPORT_INTERVAL`.
///
/// An error is the first of what stopped a part of it: what could be done without that part was done.
pub async fn step(reporter: &Reporter, now: i64) -> Result<Step> {
    let (mut step, mut failure) = (Step::default(), None);
    let (began, mut after) = (Instant::now(), AccountId::NIL);
    // A step over many accounts takes a while: each page has a `now` of its own.
    let at = || now + i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
    let thawed = thaw::step(reporter, now).await;
    step.thawed = thawed.as_ref().copied().unwrap_or(0);
    loop {
        let accounts = period::accounts(reporter, after, PAGE, at())
            .await
            .context("reading the accounts of billing periods")?;
        let Some(last) = accounts.last() else { break };
        after = *last;
        if let Err(error) = page(reporter, &accounts, Which::Due, at(), &mut step, &mut failure).await {
            failure = Some(error);
            break;
        }
    }
    step.frozen = freeze::step(reporter, at()).await.unwrap_or_else(|error| {
        failure.get_or_insert(error);
        Frozen::default()
    });
    forget(reporter, at()).await.context("deleting reports that are done")?;
    measure(reporter, &step, at()).await.context("counting open reports")?;
    info!(
        written = step.written,
        delivered = step.sent.delivered,
        postponed = step.sent.postponed,
        parked = step.sent.parked,
        withdrawn = step.sent.withdrawn,
        carries = step.carries,
        drifts = step.drifts,
        frozen = step.frozen.periods,
        thawed = step.thawed,
        closed = step.closed,
        seconds = began.elapsed().as_secs_f32(),
        "reported usage"
    );
    if let Some(failure) = failure.or(thawed.err()) {
        return Err(failure);
    }
    match step.sent.without_meter {
        0 => Ok(step),
        count => bail!(
            "{count} reports wait: Stripe has no meter for their usage types (`billing-worker stripe sync` makes them)"
        ),
    }
}

/// Counts, sends and bills a page of accounts; returns the lines that could not be counted, or have to wait. Reports that were
/// written before are sent though ClickHouse is away.
async fn page(
    reporter: &Reporter,
    accounts: &[AccountId],
    which: Which,
    now: i64,
    step: &mut Step,
    failure: &mut Option<anyhow::Error>,
) -> Result<Vec<LineId>> {
    let mut held = Vec::new();
    // Once ClickHouse did not answer, the other pages need not wait for it as well.
    if failure.is_none() {
        match count(reporter, accounts, now, step).await {
            Ok(left) => held = left,
            Err(error) => {
                warn!("usage was not counted: {error:#}");
                *failure = Some(error);
            }
        }
    }
    let sent = send::page(reporter, accounts, which, now).await?;
    step.sent.delivered += sent.delivered;
    step.sent.postponed += sent.postponed;
    step.sent.parked += sent.parked;
    step.sent.withdrawn += sent.withdrawn;
    step.sent.without_meter += sent.without_meter;
    step.carries += charge::page(reporter, accounts, now).await?;
    Ok(held)
}

/// Counts a page; what was used in periods that are over is told once Stripe was asked whether their invoices are final.
async fn count(reporter: &Reporter, accounts: &[AccountId], now: i64, step: &mut Step) -> Result<Vec<LineId>> {
    let mut add = |drafted: &Drafted| {
        step.written += drafted.reports;
        step.carries += drafted.carries;
        step.drifts += drafted.drifts;
    };
    let first = draft::page(reporter, accounts, now, &HashSet::new()).await?;
    add(&first);
    if first.overdue.is_empty() {
        return Ok(first.held);
    }
    let asked = close::ask(reporter, &first.overdue).await?;
    let again: HashSet<AccountId> = asked.periods.iter().map(|(account, _)| *account).collect();
    let accounts: Vec<AccountId> = again.iter().copied().collect();
    let second = draft::page(reporter, &accounts, now, &asked.periods).await?;
    add(&second);
    step.closed += asked.closed;
    let others = first.held.into_iter().filter(|id| !again.contains(&id.account));
    Ok(others.chain(second.held).collect())
}

async fn forget(reporter: &Reporter, now: i64) -> sqlx::Result<()> {
    let kept = i64::try_from(reporter.settings.reports_kept.as_secs()).unwrap_or(i64::MAX);
    sqlx::query!(
        "delete from meter_reports where id in (select id from meter_reports where done_at < $1 limit $2)",
        instant(now.saturating_sub(kept)),
        FORGOTTEN_MAX
    )
    .execute(&reporter.db)
    .await?;
    Ok(())
}

async fn measure(reporter: &Reporter, step: &Step, now: i64) -> sqlx::Result<()> {
    let open = sqlx::query!(
        r#"select count(*) filter (where state = 'open') as "open!", count(*) filter (where state = 'parked') as "parked!",
                  min(created_at) filter (where state = 'open') as oldest,
                  (select count(*) from meter_ledger where drift_units <> 0) as "drifting!",
                  (select coalesce(sum(greatest(drift_units, -1000000000000000)), 0)::bigint
                   from meter_ledger where drift_units <> 0) as "drift_units!",
                  (select count(*) from meter_carries where settled_at is null) as "waiting!"
           from meter_reports where state in ('open', 'parked')"#
    )
    .fetch_one(&reporter.db)
    .await?;
    let metrics = &reporter.metrics;
    metrics.open.set(open.open);
    metrics.parked.set(open.parked);
    metrics
        .oldest_s
        .set(open.oldest.map_or(0, |oldest| now - oldest.unix_timestamp()));
    metrics.drifting.set(open.drifting);
    metrics.drift_units.set(open.drift_units);
    metrics.waiting.set(open.waiting);
    metrics
        .differing
        .set(i64::try_from(step.frozen.differing).unwrap_or(i64::MAX));
    metrics.frozen.inc_by(step.frozen.periods);
    Ok(())
}

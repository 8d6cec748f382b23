//! One step over all accounts: count, report, bill late usage, freeze.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use protocol::reports::identifier::LineId;
use schema::{AccountId, period::instant};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    charge, close,
    draft::{self, Drafted},
    freeze::{self, Frozen},
    reporter::Reporter,
    send::{self, Sent, Which},
    thaw,
};

/// Accounts at once: the bound of one query of ClickHouse, one transaction, and the memory they take.
const PAGE: i64 = 500;
/// Maximum number of done reports that one step deletes.
const FORGOTTEN_MAX: i64 = 50_000;

/// The result of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Reports written.
    pub written: u64,
    pub sent: Sent,
    /// Carries written or settled.
    pub carries: u64,
    /// Lines newly found to drift.
    pub drifts: u64,
    pub frozen: Frozen,
    /// Periods whose invoice was final although no event had reported it.
    pub closed: u64,
    /// Frozen periods for which events arrived later.
    pub thawed: u64,
}

/// Counts all accounts, reports new usage to Stripe, and freezes finished periods. Called every `REPORT_INTERVAL`.
///
/// Returns the first error of a part that failed; the other parts are done.
pub async fn step(reporter: &Reporter, now: i64) -> Result<Step> {
    let (mut step, mut failure) = (Step::default(), None);
    let (began, mut after) = (Instant::now(), AccountId::NIL);
    // A step over many accounts takes a while: each page has a `now` of its own.
    let at = || now + i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
    let thawed = thaw::step(reporter, now).await;
    step.thawed = thawed.as_ref().copied().unwrap_or(0);
    loop {
        let accounts = accounts(reporter, after, PAGE, at())
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
            "{count} reports wait because Stripe has no meter for their usage types: run `billing-worker stripe sync`"
        ),
    }
}

/// The next accounts, by id, that have periods which are not frozen or late usage which is on no invoice, without the customers of
/// Stripe's other mode.
async fn accounts(reporter: &Reporter, after: AccountId, limit: i64, now: i64) -> sqlx::Result<Vec<AccountId>> {
    let ids = sqlx::query_scalar!(
        r#"select distinct account_id as "account_id!" from (
               select account_id from billing_periods where frozen_at is null and period_start <= $2 and account_id > $1
               union all
               select account_id from meter_carries where settled_at is null and account_id > $1
           ) as p
           where not exists (select from stripe_customers c where c.account_id = p.account_id and c.livemode <> $4)
           order by 1 limit $3"#,
        after.0,
        instant(now),
        limit,
        reporter.stripe.is_live()
    )
    .fetch_all(&reporter.db)
    .await?;
    Ok(ids.into_iter().map(AccountId).collect())
}

/// Counts, reports and bills a page of accounts. Returns the lines that could not be counted or have to wait. Reports that were
/// written earlier are sent even if ClickHouse is unavailable.
pub(super) async fn page(
    reporter: &Reporter,
    accounts: &[AccountId],
    which: Which,
    now: i64,
    step: &mut Step,
    failure: &mut Option<anyhow::Error>,
) -> Result<Vec<LineId>> {
    let mut held = Vec::new();
    // If ClickHouse has failed for one page, the other pages do not wait for it.
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

/// Counts a page. Before usage of periods that are over is reported, Stripe is asked whether their invoices are final.
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
    let money = sqlx::query!(
        r#"select currency as "currency!", coalesce(sum(amount) filter (where amount > 0), 0)::bigint as "charges!",
                  coalesce(-sum(amount) filter (where amount < 0), 0)::bigint as "credits!"
           from meter_carries where settled_at is null and currency is not null group by currency"#
    )
    .fetch_all(&reporter.db)
    .await?;
    let oldest = sqlx::query_scalar!(
        "select min(created_at) from meter_carries where settled_at is null and amount is distinct from 0"
    )
    .fetch_one(&reporter.db)
    .await?;
    metrics
        .oldest_open_money_s
        .set(oldest.map_or(0, |oldest| now - oldest.unix_timestamp()));
    metrics.show_open_money(
        money
            .iter()
            .map(|row| (row.currency.as_str(), row.charges, row.credits)),
    );
    Ok(())
}

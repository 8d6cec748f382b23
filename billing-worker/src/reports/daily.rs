//! Checks the money of all accounts once a day, and of an account after each final invoice. Results are in `money_checks`, and
//! their sums are metrics. One worker at a time does this, a page at a time; another one continues where it stops.

mod metrics;
mod repository;

use anyhow::{Context, Result};
use protocol::reports::money::MoneyState;
use schema::AccountId;
use tracing::{error, info};

pub use self::metrics::MoneyMetrics;
use super::{
    Reporter,
    money::{PeriodMoney, Source},
    reconcile::{self, LineState, Question, Reconciliation, Which},
};

const DAY: i64 = 24 * 3_600;
/// Periods that ended at most so long ago are checked each day. Those with a difference are checked until it is gone.
const LOOK_BACK: i64 = 62 * DAY;
/// One account in so many of a page is compared with Stripe itself, each day other ones.
const SAMPLE: usize = 100;

/// The result of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub accounts: usize,
    /// Periods with a difference.
    pub differing: usize,
    /// All accounts are done.
    pub is_complete: bool,
    /// More accounts are to be checked now.
    pub has_more: bool,
}

/// Checks accounts that are due, and a page of the daily check. Called every minute.
pub async fn step(reporter: &Reporter, now: i64) -> Result<Checked> {
    let mut checked = Checked::default();
    let is_live = reporter.stripe.is_live();
    if let Some(sweep) = repository::claim(&reporter.db, is_live, now).await? {
        let due = repository::due(&reporter.db, is_live, now).await?;
        for (account, is_fresh) in due {
            checked.add(check(reporter, &[account], source(is_fresh), now).await?);
        }
        if sweep.is_due(now) {
            checked.add(page(reporter, sweep.after, now).await?);
        }
        repository::release(&reporter.db, is_live, &sweep).await?;
    }
    let shown = repository::sums(&reporter.db, is_live)
        .await
        .context("adding up differences")?;
    reporter.metrics.money.show(&shown);
    Ok(checked)
}

/// The next accounts of the daily check.
async fn page(reporter: &Reporter, after: AccountId, now: i64) -> Result<Checked> {
    let question = question(Source::Copies, now);
    let accounts = reconcile::accounts(reporter, &question, after)
        .await
        .context("reading accounts")?;
    let is_live = reporter.stripe.is_live();
    let Some(last) = accounts.last() else {
        repository::complete(&reporter.db, is_live, now).await?;
        info!("checked the money of all accounts");
        return Ok(Checked {
            is_complete: true,
            ..Checked::default()
        });
    };
    let mut checked = Checked {
        has_more: true,
        ..Checked::default()
    };
    // What only Stripe shows stays until Stripe shows that it is gone.
    let known = repository::fresh_differences(&reporter.db, &accounts).await?;
    let first = usize::try_from(now / DAY).unwrap_or(0) % accounts.len().min(SAMPLE);
    let sample: Vec<_> = accounts.iter().skip(first).step_by(SAMPLE).copied().collect();
    let (fresh, others): (Vec<_>, Vec<_>) = accounts
        .iter()
        .partition(|account| sample.contains(account) || known.contains(account));
    checked.add(check(reporter, &others, Source::Copies, now).await?);
    for account in fresh {
        checked.add(check(reporter, &[account], Source::Stripe, now).await?);
    }
    repository::advance(&reporter.db, is_live, *last).await?;
    Ok(checked)
}

async fn check(reporter: &Reporter, accounts: &[AccountId], source: Source, now: i64) -> Result<Checked> {
    let question = question(source, now);
    let Reconciliation { rows, money, .. } = reconcile::of_accounts(reporter, &question, accounts, now).await?;
    let is_fresh = source == Source::Stripe;
    // Units that Stripe lost or invented change what the next invoice asks for.
    let mut money = money;
    for row in rows.iter().filter(|row| row.state == LineState::Difference) {
        let of_row =
            |money: &&mut PeriodMoney| (money.account_id, money.period_start) == (row.account_id, row.period_start);
        if let Some(money) = money.iter_mut().find(of_row) {
            let why = row.note.as_deref().unwrap_or("the counts differ");
            money.differences.push(format!("{}: {why}", row.usage_type));
            money.state = MoneyState::Difference;
        }
    }
    repository::store(&reporter.db, &money, is_fresh, now)
        .await
        .context("storing checks of money")?;
    let differing = money.iter().filter(|money| money.is_open_difference());
    let mut checked = Checked {
        accounts: accounts.len(),
        ..Checked::default()
    };
    for money in differing {
        checked.differing += 1;
        error!(
            account.id = %money.account_id, period.start = %money.period_start, cents = money.amounts.difference_cents,
            differences = ?money.differences,
            "the invoices are not what is owed: run `billing-worker reconcile --period all --account {} --fresh`", money.account_id
        );
    }
    Ok(checked)
}

fn question(source: Source, now: i64) -> Question {
    Question {
        which: Which::Since(now - LOOK_BACK),
        account: None,
        recount: false,
        source,
        summaries: source == Source::Stripe,
    }
}

fn source(is_fresh: bool) -> Source {
    match is_fresh {
        true => Source::Stripe,
        false => Source::Copies,
    }
}

impl Checked {
    fn add(&mut self, other: Self) {
        self.accounts += other.accounts;
        self.differing += other.differing;
        self.is_complete |= other.is_complete;
        self.has_more |= other.has_more;
    }
}

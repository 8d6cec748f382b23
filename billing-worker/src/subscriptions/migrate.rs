//! Gives an account another version of its plan. While the change is in progress, a task protects it: if the worker or the command
//! dies, the service completes it.

use schema::{AccountId, Currency, Interval, PlanVersion, period::instant};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tracing::{error, warn};
use uuid::Uuid;

use super::{
    armed::Armed,
    billing::Billing,
    change::{self, Beginning},
    currency,
    lease::Lease,
    migration::{MigrateWhen, Migration, Step},
    owed, payment_method,
    planned::Planned,
    previewed, prices, refresh,
    running::Running,
    versions,
};
use crate::{
    accounts,
    administration::audit,
    error::Error,
    tasks::repository::{self, TaskKind},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only say what the migration costs.
    DryRun,
    Make,
}

/// One account of a migration.
#[derive(Clone, Debug, Serialize)]
pub struct Migrated {
    pub account_id: AccountId,
    pub outcome: Outcome,
    /// Why it was skipped, or failed.
    pub reason: Option<String>,
    /// Of all amounts.
    pub currency: String,
    /// How often the account pays. `None`: it is not known.
    pub interval: Option<Interval>,
    /// For the interval, before and after.
    pub price_cents_now: i64,
    pub price_cents_then: i64,
    /// When the new version begins; `None`: it does not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub effective_at: Option<OffsetDateTime>,
    /// Sum of the invoice that is made at once. Usage is not a part of it. Negative: a credit.
    pub invoiced_now_cents: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of a dry run.
    WouldMigrate,
    Migrated,
    /// An earlier command did it.
    Already,
    Skipped,
    /// The service tries again if that can help.
    Failed,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WouldMigrate => "would_migrate",
            Self::Migrated => "migrated",
            Self::Already => "already",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

/// A migration in progress, as a task stores it.
#[derive(Serialize, Deserialize)]
struct Args {
    from: Uuid,
    to: Uuid,
    when: MigrateWhen,
    counts_from: i64,
}

/// The result for one account. Of a dry run: what it would be.
struct Done {
    outcome: Outcome,
    reason: Option<String>,
    interval: Option<Interval>,
    effective_at: Option<i64>,
    invoiced_now_cents: i64,
}

impl Done {
    fn nothing(outcome: Outcome, interval: Option<Interval>, reason: impl Into<String>) -> Self {
        Self {
            outcome,
            interval,
            reason: Some(reason.into()),
            effective_at: None,
            invoiced_now_cents: 0,
        }
    }
}

/// Migrates one account, or says what that would cost. A failure is a part of the result: other accounts are not affected.
pub async fn migrate(billing: &Billing, account: AccountId, migration: &Migration, action: Action) -> Migrated {
    let billing = &billing.of(account);
    let tried = async {
        let lease = billing.lease(account).await?;
        let done = leased(billing, &lease, migration, action, None).await;
        lease.release().await;
        done
    };
    let done = tried.await.unwrap_or_else(|failure| {
        let is_skipped = matches!(failure, Error::NotSubscribed | Error::ChangedTooOften { .. });
        let outcome = match failure.is_permanent() || is_skipped {
            true => Outcome::Skipped,
            false => Outcome::Failed,
        };
        Done::nothing(outcome, None, failure.to_string())
    });
    let currency = currency::of_account(&billing.admin.db, account).await;
    let currency = currency
        .ok()
        .and_then(|currency| currency.parse().ok())
        .unwrap_or(Currency::USD);
    let price = |of: &PlanVersion| {
        let price = of.terms.price(done.interval.unwrap_or_default(), currency);
        price.unwrap_or(0)
    };
    Migrated {
        account_id: account,
        currency: currency.to_string(),
        outcome: done.outcome,
        reason: done.reason,
        interval: done.interval,
        price_cents_now: price(&migration.from),
        price_cents_then: price(&migration.to),
        effective_at: done.effective_at.map(instant),
        invoiced_now_cents: done.invoiced_now_cents,
    }
}

/// Completes a migration that stopped in between. The caller holds the account's lease, and closes the task.
pub async fn settle(billing: &Billing, lease: &Lease, task: Uuid, args: &Value) -> Result<(), Error> {
    let unreadable =
        |why: serde_json::Error| Error::Conflict(format!("the task was written by a newer version ({why})"));
    let args = Args::deserialize(args).map_err(unreadable)?;
    let mut read = accounts::versions::read(&billing.admin.db, &[args.from, args.to]).await?;
    let mut take = |id: Uuid| read.remove(&id).map(|version| PlanVersion::clone(&version));
    let (Some(from), Some(to)) = (take(args.from), take(args.to)) else {
        return Ok(());
    };
    let migration = Migration {
        from,
        to,
        when: args.when,
        counts_from: args.counts_from,
    };
    match leased(billing, lease, &migration, Action::Make, Some(task)).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_permanent() || matches!(failure, Error::NotSubscribed) => {
            let (account, to) = (lease.account(), migration.to.name());
            error!(account.id = %account, plan.version = to, "an account keeps its version of the plan: {failure}");
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

async fn leased(
    billing: &Billing,
    lease: &Lease,
    migration: &Migration,
    action: Action,
    task: Option<Uuid>,
) -> Result<Done, Error> {
    let (db, account) = (&billing.admin.db, lease.account());
    if action == Action::Make {
        change::complete_earlier(billing, lease).await?;
    }
    let running = Running::find(db, billing, account).await?;
    match step(billing, migration, &running).await? {
        Step::Make => {}
        Step::Done(why) => return Ok(Done::nothing(Outcome::Already, running.interval(), why)),
        Step::Skip(why) => return Ok(Done::nothing(Outcome::Skipped, running.interval(), why)),
    }
    let (plan, terms) = (&migration.to.plan, &migration.to.terms);
    currency::refuse_other(&running, &migration.to.name(), terms)?;
    // An account keeps its interval.
    let interval = running
        .interval()
        .filter(|interval| terms.price(*interval, Currency::USD).is_some());
    let Some(interval) = interval else {
        let to = migration.to.name();
        let why = match running.interval() {
            Some(interval) => format!("{to} has no price per {interval}"),
            None => format!("it pays for an interval for which {to} has no price"),
        };
        return Ok(Done::nothing(Outcome::Skipped, running.interval(), why));
    };
    let prices = prices::of_version(db, plan, terms, interval).await?;
    let prices = prices.ok_or_else(|| Error::PricesMissing {
        lookup_keys: migration.to.name(),
    })?;
    let counts_from = migration.counts_from.max(running.period_start());
    let beginning = Beginning {
        plan,
        prices: &prices,
        // It is the same plan to the customer.
        ends_trial: false,
        counts_from: Some(counts_from),
    };
    owed::refuse(billing, &running.subscription).await?;
    let mut done = Done {
        outcome: Outcome::WouldMigrate,
        interval: Some(interval),
        reason: None,
        effective_at: Some(running.period_end()),
        invoiced_now_cents: 0,
    };
    if migration.when == MigrateWhen::Now {
        payment_method::refuse_slow(billing, &running.subscription.id).await?;
        change::refuse_too_often(billing, account, &running, &prices, billing.clock.now_s()).await?;
        done.effective_at = Some(billing.clock.now_s());
        let invoice = previewed::invoice(billing, &running, &prices, beginning.ends_trial, counts_from).await?;
        done.invoiced_now_cents = invoice.total;
    }
    if action == Action::DryRun {
        return Ok(done);
    }
    done.outcome = Outcome::Migrated;
    let is_new = task.is_none();
    let task = match task {
        Some(task) => task,
        None => arm(lease, migration).await?,
    };
    let armed = Armed::find(billing, lease, &running).await?;
    let made = match migration.when {
        MigrateWhen::Now => change::upgrade(billing, lease, &armed, beginning).await,
        MigrateWhen::PeriodEnd => change::change_next(billing, account, &armed, &prices).await,
    };
    if let Err(failure) = made
        && !is_made(billing, account, migration).await
    {
        if is_new {
            postpone(billing, account, task, &failure).await;
        }
        // A failed payment leaves an invoice, which is voided.
        refresh::store(billing, lease, &running.customer).await?;
        return Err(failure);
    }
    finish(billing, lease, migration, task, &done).await?;
    refresh::store(billing, lease, &running.customer).await?;
    Ok(done)
}

/// Whether a change was made although its response was lost.
async fn is_made(billing: &Billing, account: AccountId, migration: &Migration) -> bool {
    match Running::find(&billing.admin.db, billing, account).await {
        Ok(now) => matches!(step(billing, migration, &now).await, Ok(Step::Done(_))),
        Err(_) => false,
    }
}

async fn step(billing: &Billing, migration: &Migration, running: &Running) -> Result<Step, Error> {
    let db = &billing.admin.db;
    let own = running.subscription.plan_item().map(|item| item.price.id.clone());
    let version = versions::of_any(db, own.as_slice()).await?;
    let planned = running.planned();
    let next = match &planned {
        Planned::Plan(prices) => {
            let prices: Vec<String> = prices.iter().map(|(price, _)| price.clone()).collect();
            versions::of_any(db, &prices).await?
        }
        _ => None,
    };
    Ok(migration.step(version, &planned, next))
}

async fn arm(lease: &Lease, migration: &Migration) -> Result<Uuid, Error> {
    let args = json!(Args {
        from: migration.from.id,
        to: migration.to.id,
        when: migration.when,
        counts_from: migration.counts_from,
    });
    let mut tx = lease.begin().await?;
    let task = repository::arm(&mut *tx, lease.account(), TaskKind::Migrate, &args).await?;
    tx.commit().await?;
    Ok(task)
}

async fn finish(billing: &Billing, lease: &Lease, migration: &Migration, task: Uuid, done: &Done) -> Result<(), Error> {
    let mut tx = lease.begin().await?;
    let entry = audit::Entry {
        action: "plan.migrate",
        account: Some(lease.account()),
        subject: migration.to.name(),
        details: json!({
            "before": migration.from.name(),
            "when": migration.when,
            "invoiced_now_cents": done.invoiced_now_cents,
        }),
        actor: billing.admin.actor(),
    };
    audit::record(&mut tx, entry).await?;
    repository::done(&mut *tx, task).await?;
    tx.commit().await?;
    Ok(())
}

/// The service tries again, if that can help.
async fn postpone(billing: &Billing, account: AccountId, task: Uuid, failure: &Error) {
    let db = &billing.admin.db;
    let stored = match failure.is_permanent() {
        true => repository::done(db, task).await,
        false => repository::failed(db, task, &failure.to_string(), 0).await.map(drop),
    };
    if let Err(why) = stored {
        warn!(account.id = %account, task.id = %task, "could not store how a task ended, it is tried again: {why}");
    }
}

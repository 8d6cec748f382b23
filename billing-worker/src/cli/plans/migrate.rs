//! `plans migrate`: other terms for accounts that have a plan.

use anyhow::{Result, bail};
use clap::Args;
use schema::clock::{Clock, now_s};
use schema::{AccountId, Interval};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    accounts::identity,
    administration::Administration,
    cli::{
        argument::time,
        print::{instant, out, row, table},
        reports::reporter,
    },
    config::Settings,
    stripe::Class,
    subscriptions::{
        billing::Billing,
        migrate::{Action, Migrated, Outcome, migrate},
        migration::{self, MigrateWhen, Migration},
    },
};

#[derive(Args)]
pub struct MigrateArguments {
    /// The version that the accounts have, such as pro@1
    #[arg(long)]
    from: String,
    /// The version that they get, such as pro@2: the current one of its plan
    #[arg(long)]
    to: String,
    /// Only this account: its id or e-mail address
    #[arg(long)]
    account: Option<String>,
    /// Begin with the next period of each account [default: now, and prorate the price]
    #[arg(long)]
    at_period_end: bool,
    /// Only print what each account pays
    #[arg(long)]
    dry_run: bool,
    /// Prorate from this time on (RFC 3339). With the time that a dry run printed, the amounts are the same [default: now]
    #[arg(long, value_parser = time)]
    at: Option<OffsetDateTime>,
}

pub(super) async fn run(
    arguments: &MigrateArguments,
    admin: &Administration,
    settings: &Settings,
    json: bool,
) -> Result<()> {
    const MINUTE_S: i64 = 60;
    let at = arguments
        .at
        .map_or(now_s() / MINUTE_S * MINUTE_S, OffsetDateTime::unix_timestamp);
    let when = match arguments.at_period_end {
        true => MigrateWhen::PeriodEnd,
        false => MigrateWhen::Now,
    };
    let migration = Migration::find(&admin.db, &arguments.from, &arguments.to, when, at).await?;
    let action = match arguments.dry_run {
        true => Action::DryRun,
        false => Action::Make,
    };
    let reporter = reporter(admin, settings)?;
    let billing = Billing::new(
        admin.clone(),
        Some(reporter),
        settings.billing.clone(),
        Clock::default(),
    );
    // Customers and webhooks go first.
    let billing = billing.in_class(Class::Sweep);
    let accounts = match &arguments.account {
        Some(account) => vec![identity::find(admin, account).await?],
        None => all(admin, &migration).await?,
    };
    let mut migrated = Vec::new();
    for account in accounts {
        migrated.push(migrate(&billing, account, &migration, action).await);
    }
    print(json, &migration, action, &migrated)?;
    let failed = migrated.iter().filter(|one| one.outcome == Outcome::Failed).count();
    match failed {
        0 => Ok(()),
        failed => {
            bail!("failed for {failed} of the accounts: the service tries again; repeat the command to see the result")
        }
    }
}

async fn all(admin: &Administration, migration: &Migration) -> Result<Vec<AccountId>> {
    const PAGE: i64 = 1_000;
    let (mut all, mut after) = (Vec::new(), AccountId::NIL);
    loop {
        let page = migration::accounts(&admin.db, migration.from.id, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(all);
        };
        after = *last;
        all.extend(page);
    }
}

fn print(json: bool, migration: &Migration, action: Action, migrated: &[Migrated]) -> Result<()> {
    let at = schema::period::instant(migration.counts_from);
    let value = json!({
        "from": migration.from.name(),
        "to": migration.to.name(),
        "terms_now": migration.from.terms,
        "terms_then": migration.to.terms,
        "when": migration.when,
        "dry_run": action == Action::DryRun,
        "at": at.format(&Rfc3339)?,
        "accounts": migrated,
    });
    out(json, &value, || {
        let heading = row(["account", "result", "cents", "per", "invoiced now", "from", ""]);
        let rows = migrated.iter().map(|one| {
            row([
                &one.account_id.to_string(),
                one.outcome.as_str(),
                &format!("{} -> {} {}", one.price_cents_now, one.price_cents_then, one.currency),
                one.interval.map_or("", Interval::as_str),
                &one.invoiced_now_cents.to_string(),
                &one.effective_at.map(instant).unwrap_or_default(),
                one.reason.as_deref().unwrap_or_default(),
            ])
        });
        let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
        let (from, to) = (migration.from.name(), migration.to.name());
        match migrated.is_empty() {
            true => format!("no account pays for {from}"),
            false => format!("{from} -> {to}, prorated from {}\n\n{}", instant(at), table(&rows)),
        }
    })
}

//! `stripe …`: bring Stripe in line with the catalogue; check that all is well; compare with Stripe; retry an event.

use anyhow::{Result, bail};
use clap::Subcommand;
use schema::clock::Clock;
use serde_json::json;
use tracing::{error, warn};

use super::{
    print::{out, row, table},
    reports::reporter,
};
use crate::{
    administration::Administration,
    check::{
        self,
        row::{Level, Row},
    },
    config::Settings,
    rehearse::{self, Afterwards},
    stripe::{Class, catalogue::Change},
    subscriptions::{
        billing::Billing,
        portal,
        selling::{self, Unused},
        unbilled::{self, Mended, Unbilled},
    },
    webhook::{self, comparison},
};

#[derive(Subcommand)]
pub enum StripeCommand {
    /// Create the products, prices and meters of the catalogue and the portal's configuration in Stripe, and add missing metered
    /// prices to subscriptions; prints the changes, and then makes them
    Sync {
        /// Only print the changes
        #[arg(long)]
        dry_run: bool,
        /// Also deactivate prices that no subscription, planned change or open checkout has, and that are not sold now
        #[arg(long)]
        prune: bool,
    },
    /// Check the settings, the key, the webhook endpoint, the catalogue and the portal in Stripe; fails if something is wrong
    Check,
    /// Compare all subscriptions, invoices, credit notes, refunds and disputes with Stripe now, as the service does once a day, and copy what differs
    Compare,
    /// In a sandbox: walk through the whole life of a subscription in the time of a test clock, and compare each line that Stripe
    /// bills with the catalogue; fails if one differs
    Rehearse {
        /// Do not delete the test clock, with the customer and the invoices
        #[arg(long)]
        keep: bool,
    },
    /// Retry a parked event
    Retry {
        /// Id of the event, evt_…
        event: String,
    },
}

pub(super) async fn run(
    command: &StripeCommand,
    admin: &Administration,
    settings: &Settings,
    json: bool,
) -> Result<()> {
    match command {
        StripeCommand::Sync { dry_run, prune } => {
            let billing = billing(admin, settings)?;
            let stripe = billing.stripe()?.clone();
            let unused = if *prune { Unused::Prune } else { Unused::Keep };
            let compared = selling::compare(&stripe, admin, unused).await?;
            let unbilled = unbilled::list(&admin.db, &admin.catalogue, None).await?;
            print_plan(json, &compared.changes, &unbilled)?;
            if *dry_run {
                return Ok(());
            }
            let others = compared.other_intervals();
            if !others.is_empty() {
                bail!(
                    "plans are sold by the month and by the year only, and Stripe has other prices on their products: {}; nothing was \
                     changed: deactivate them in Stripe, then run the command again",
                    others.join(", ")
                );
            }
            selling::apply(&stripe, admin, compared).await?;
            portal::remember(&billing).await?;
            mend(&billing, &unbilled).await
        }
        StripeCommand::Check => {
            let rows = check::run(&billing(admin, settings)?, &settings.stripe).await?;
            let count = |level: Level| rows.iter().filter(|row| row.level == level).count();
            let (errors, warnings) = (count(Level::Error), count(Level::Warning));
            out(
                json,
                &json!({ "rows": rows, "errors": errors, "warnings": warnings }),
                || {
                    let cells =
                        |one: &Row| row([one.level.as_str(), &one.what, one.mend.as_deref().unwrap_or_default()]);
                    let heading = row(["", "what", "how to fix it"]);
                    table(&[heading].into_iter().chain(rows.iter().map(cells)).collect::<Vec<_>>())
                },
            )?;
            match errors {
                0 => Ok(()),
                errors => bail!("{errors} errors: mend them, then run the command again"),
            }
        }
        StripeCommand::Compare => {
            let billing = billing(admin, settings)?;
            let compared = comparison::run(&billing.in_class(Class::Sweep)).await?;
            out(json, &compared, || {
                format!(
                    "{} accounts compared; {} subscriptions differed",
                    compared.accounts, compared.mended
                )
            })?;
            match compared.failed {
                0 => Ok(()),
                failed => bail!("{failed} accounts could not be compared: run the command again"),
            }
        }
        StripeCommand::Rehearse { keep } => rehearse(settings, admin, *keep, json).await,
        StripeCommand::Retry { event } => {
            webhook::inbox::retry(admin, event).await?;
            out(json, &json!({ "event": event, "state": "received" }), || {
                format!("the service will retry {event}")
            })
        }
    }
}

async fn rehearse(settings: &Settings, admin: &Administration, keep: bool, json: bool) -> Result<()> {
    let afterwards = if keep { Afterwards::Keep } else { Afterwards::Delete };
    let (report, done) = rehearse::run(settings, &admin.db, afterwards).await;
    let differences = report.differences();
    out(json, &json!({ "report": report, "differences": differences }), || {
        let cells =
            |one: &rehearse::report::Row| row([one.step, &one.what, &one.ours, &one.stripe, one.state.as_str()]);
        let heading = row(["step", "what", "ours", "Stripe's", ""]);
        let rows: Vec<_> = [heading].into_iter().chain(report.rows.iter().map(cells)).collect();
        let answers = report.questions.iter().map(|one| row([one.question, &one.seen]));
        let answers: Vec<_> = [row(["question", "seen"])].into_iter().chain(answers).collect();
        let kept = report
            .test_clock
            .as_ref()
            .map(|id| format!("\n\nThe test clock {id} is kept in Stripe."));
        format!(
            "Rehearsed with {}.\n\n{}\n\n{}{}",
            report.plans,
            table(&rows),
            table(&answers),
            kept.unwrap_or_default()
        )
    })?;
    done?;
    match differences {
        0 => Ok(()),
        differences => bail!("{differences} of {} rows differ", report.rows.len()),
    }
}

/// Fails without a Stripe key.
pub(super) fn billing(admin: &Administration, settings: &Settings) -> Result<Billing> {
    let reporter = Some(reporter(admin, settings)?);
    let (admin, settings) = (admin.clone(), settings.billing.clone());
    Ok(Billing::new(admin, reporter, settings, Clock::default()))
}

/// A failure for one subscription does not stop the others.
async fn mend(billing: &Billing, unbilled: &[Unbilled]) -> Result<()> {
    let mut failed = 0;
    for of in unbilled {
        let (account, subscription) = (of.account_id, &of.stripe_subscription_id);
        match unbilled::mend(billing, account).await {
            Ok(Mended::Added | Mended::Complete) => {}
            Ok(Mended::Scheduled) => warn!(
                account.id = %account, stripe_subscription.id = subscription,
                "left unchanged: the subscription changes to another plan at the end of its period, and its usage until then is not billed"
            ),
            Err(failure) => {
                failed += 1;
                error!(account.id = %account, stripe_subscription.id = subscription, "the subscription is not billed for all its usage: {failure}");
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => bail!(
            "{failed} of {} subscriptions are still not billed for all their usage: run the command again",
            unbilled.len()
        ),
    }
}

fn print_plan(json: bool, changes: &[Change], unbilled: &[Unbilled]) -> Result<()> {
    let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
    out(json, &json!({ "changes": changes, "unbilled": unbilled }), || {
        let unbilled = unbilled.iter().map(|of| {
            let (usage_types, subscription, account) =
                (of.usage_types.join(", "), &of.stripe_subscription_id, of.account_id);
            format!(
                "add the prices of {usage_types} to {subscription} of account {account} ({})",
                of.plan
            )
        });
        let lines: Vec<String> = changes.iter().cloned().chain(unbilled).collect();
        match lines.is_empty() {
            true => "Stripe matches the catalogue: nothing to do".to_owned(),
            false => lines.join("\n"),
        }
    })
}

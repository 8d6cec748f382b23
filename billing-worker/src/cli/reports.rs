//! `reports …` and `reconcile`: metered usage and Stripe.

mod print;
mod reconciliation;

use std::{str::FromStr, time::Duration};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use schema::clock;
use service::settings::seconds;
use time::{Date, OffsetDateTime, format_description::well_known::Iso8601};

use super::{argument, page::PageArguments};
use crate::{
    accounts::identity,
    administration::Administration,
    config::Settings,
    error::Error,
    reports::{
        self, Reporter, accepted, attention,
        list::{self, ReportState},
        money::Source,
        reconcile::{self, Question, Which},
    },
    stripe::{Stripe, StripeError, StripeMetrics},
};

#[derive(Subcommand)]
pub enum ReportsCommand {
    /// List reports, oldest first
    List {
        /// Only reports in this state
        #[arg(long, value_enum)]
        state: Option<ReportState>,
        /// Only reports that Stripe refused (same as --state parked)
        #[arg(long, conflicts_with = "state")]
        parked: bool,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Show what needs an operator: reports, events and tasks that fail, drifts, waiting carries, findings in Stripe
    Attention,
    /// Retry a parked report
    Retry { identifier: String },
    /// Accept a difference of money that you have settled in Stripe: it is no alarm while its amount stays the same
    AcceptDifference {
        /// Account id or e-mail address
        account: String,
        /// Start of the period, as `reports attention` and `reconcile` print it
        #[arg(value_parser = argument::time)]
        period: OffsetDateTime,
        /// How it was settled; it is in the audit log
        #[arg(long)]
        reason: String,
    },
    /// Count one account's usage and report it to Stripe now
    Flush {
        /// Account id or e-mail address
        account: String,
    },
}

#[derive(Args)]
pub struct ReconcileArguments {
    /// `current`, `previous` (the last period that ended), `all`, or a day (YYYY-MM-DD): the periods that include it
    #[arg(long, default_value = "current", value_name = "PERIOD")]
    period: WhichArgument,
    /// Only this account: account id or e-mail address
    #[arg(long)]
    account: Option<String>,
    /// Recount frozen periods as well
    #[arg(long)]
    recount: bool,
    /// Read invoices and credit notes in Stripe, not their copies: finds what somebody deleted there
    #[arg(long)]
    fresh: bool,
    /// Wait up to this long until nothing is pending; fail if something is still pending
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,
}

#[derive(Clone, Copy)]
struct WhichArgument(Which);

impl FromStr for WhichArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text {
            "current" => Which::Current,
            "previous" => Which::Previous,
            "all" => Which::All,
            day => Which::Day(
                Date::parse(day, &Iso8601::DATE)
                    .map_err(|_| format!("`{day}` must be current, previous, all or a day such as 2026-11-01"))?,
            ),
        }))
    }
}

pub(super) async fn run(
    command: &ReportsCommand,
    admin: &Administration,
    settings: &Settings,
    json: bool,
) -> Result<()> {
    let now = clock::now_s();
    match command {
        ReportsCommand::List { state, parked, page } => {
            let state = if *parked { Some(ReportState::Parked) } else { *state };
            print::reports(json, &list::list(&admin.db, state, page.page()).await?)
        }
        ReportsCommand::Attention => print::attention(json, &attention::find(&admin.db, &admin.catalogue).await?),
        ReportsCommand::Retry { identifier } => print::report(json, &list::retry(admin, identifier, now).await?),
        ReportsCommand::AcceptDifference {
            account,
            period,
            reason,
        } => {
            let account = identity::find(admin, account).await?;
            print::accepted(json, &accepted::accept(admin, account, *period, reason).await?)
        }
        ReportsCommand::Flush { account } => {
            let account = identity::find(admin, account).await?;
            print::flushed(json, reports::flush(&reporter(admin, settings)?, account, now).await?)
        }
    }
}

pub(super) async fn reconcile(
    arguments: &ReconcileArguments,
    admin: &Administration,
    settings: &Settings,
    json: bool,
) -> Result<()> {
    let now = clock::now_s();
    let account = match &arguments.account {
        Some(account) => Some(identity::find(admin, account).await?),
        None => None,
    };
    let question = Question {
        which: arguments.period.0,
        account,
        recount: arguments.recount,
        source: if arguments.fresh {
            Source::Stripe
        } else {
            Source::Copies
        },
        summaries: true,
    };
    let wait = arguments.wait.unwrap_or(Duration::ZERO);
    let reconciliation = reconcile::run(&reporter(admin, settings)?, &question, wait, now).await?;
    reconciliation::print(json, &reconciliation)?;
    let totals = reconciliation.totals;
    let mut wrong = Vec::new();
    if totals.differing > 0 {
        wrong.push(format!("{} of {} lines differ in units", totals.differing, totals.rows));
    }
    if totals.differing_periods > 0 {
        let (periods, all) = (totals.differing_periods, reconciliation.money.len());
        wrong.push(format!("{periods} of {all} periods differ in money"));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    if totals.overdue > 0 {
        bail!(
            "{} of {} lines have late usage that is on no invoice after {:?} (OPEN_MONEY_AFTER): run `billing-worker reports \
             attention`",
            totals.overdue,
            totals.rows,
            settings.reports.open_money_after
        );
    }
    if totals.stuck > 0 {
        bail!(
            "{} of {} lines have units that are not reported after {} minutes (three times REPORT_INTERVAL, at least 5 minutes): does a \
             billing worker run? `billing-worker reports attention` shows reports that fail",
            totals.stuck,
            totals.rows,
            settings.reports.pending_for_s() / 60
        );
    }
    if totals.pending > 0 && arguments.wait.is_some() {
        bail!("{} of {} lines are still pending", totals.pending, totals.rows);
    }
    Ok(())
}

pub(super) fn reporter(admin: &Administration, settings: &Settings) -> Result<Reporter> {
    let Some(stripe) = Stripe::new(&settings.stripe, StripeMetrics::default())? else {
        return Err(Error::Stripe(StripeError::NotConfigured).into());
    };
    Ok(Reporter::new(
        admin.db.clone(),
        admin.clickhouse.clone(),
        stripe,
        admin.catalogue.clone(),
        settings.reports.clone(),
        Default::default(),
    ))
}

//! The output of `reports …`: text for people, or one JSON value.

use anyhow::Result;
use protocol::reports::money;

use super::super::print::{instant, list, out, row, table};
use crate::{
    administration::page::Listed,
    reports::{Flushed, accepted::DifferenceView, attention::Attention, list::ReportView},
};

pub(super) fn reports(json: bool, listed: &Listed<ReportView>) -> Result<()> {
    out(json, listed, || {
        let report = |report: &ReportView| row(report_cells(report).each_ref().map(String::as_str));
        list(REPORT_HEADING, listed, report)
    })
}

pub(super) fn report(json: bool, report: &ReportView) -> Result<()> {
    out(json, report, || {
        let cells = report_cells(report);
        table(&[row(REPORT_HEADING), cells.into()])
    })
}

pub(super) fn flushed(json: bool, flushed: Flushed) -> Result<()> {
    out(json, &flushed, || {
        let Flushed {
            delivered,
            open,
            parked,
            held,
        } = &flushed;
        let waiting = match held.len() {
            0 => String::new(),
            lines => format!(", {lines} counts held for later"),
        };
        format!("{delivered} reports delivered, {open} still open, {parked} parked{waiting}")
    })
}

pub(super) fn attention(json: bool, attention: &Attention) -> Result<()> {
    out(json, attention, || {
        let reports = |reports: &[ReportView]| -> Vec<_> {
            let cells = reports.iter().map(|report| report_cells(report).into());
            [row(REPORT_HEADING)].into_iter().chain(cells).collect()
        };
        let (parked, waiting) = (reports(&attention.parked), reports(&attention.waiting_reports));
        let drifts = attention.drifts.iter().map(|drift| {
            let (account, units) = (drift.account_id.to_string(), drift.drift_units.to_string());
            let since = drift.since.map(instant).unwrap_or_default();
            row([
                &account,
                &drift.usage_type,
                &instant(drift.period_start),
                &units,
                &since,
            ])
        });
        let heading = row(["account", "usage type", "period", "drift", "since"]);
        let drifts: Vec<_> = [heading].into_iter().chain(drifts).collect();
        let carries = attention.waiting_carries.iter().map(|carry| {
            let (account, units) = (carry.account_id.to_string(), carry.units.to_string());
            let error = carry.error.as_deref().unwrap_or_default();
            row([
                &account,
                &carry.usage_type,
                &instant(carry.from_period),
                &units,
                &carry.reason,
                &carry.policy,
                error,
            ])
        });
        let heading = row(["account", "usage type", "of period", "units", "reason", "policy", ""]);
        let carries: Vec<_> = [heading].into_iter().chain(carries).collect();
        let unbilled: Vec<_> = (attention.unbilled.iter())
            .map(|unbilled| {
                let (account, usage_types) = (unbilled.account_id.to_string(), unbilled.usage_types.join(", "));
                row([&account, &unbilled.stripe_subscription_id, &unbilled.plan, &usage_types])
            })
            .collect();
        let heading = row(["account", "subscription", "plan", "usage types"]);
        let unbilled: Vec<_> = [heading].into_iter().chain(unbilled).collect();
        let events = attention.failing_events.iter().map(|event| {
            let error = event.error.as_deref().unwrap_or_default();
            row([&event.id, &event.kind, &event.state, &event.attempts.to_string(), error])
        });
        let heading = row(["event", "type", "state", "attempts", ""]);
        let events: Vec<_> = [heading].into_iter().chain(events).collect();
        let tasks = attention.tasks.iter().map(|task| {
            let (account, attempts) = (task.account_id.to_string(), task.attempts.to_string());
            let error = task.error.as_deref().unwrap_or_default();
            row([&account, &task.kind, &task.state, &attempts, error])
        });
        let heading = row(["account", "task", "state", "attempts", ""]);
        let tasks: Vec<_> = [heading].into_iter().chain(tasks).collect();
        let findings = attention.findings.iter().map(|finding| {
            let account = finding
                .account_id
                .map(|account| account.to_string())
                .unwrap_or_default();
            let since = instant(finding.first_seen_at);
            row([&finding.kind, &account, &since, &finding.text, &finding.remedy])
        });
        let heading = row(["finding", "account", "since", "what is wrong", "what to do"]);
        let findings: Vec<_> = [heading].into_iter().chain(findings).collect();
        let differences = attention.differences.iter().map(difference_cells);
        let heading = row(DIFFERENCE_HEADING);
        let differences: Vec<_> = [heading].into_iter().chain(differences).collect();
        let part = |name: &str, rows: &[Vec<String>]| match rows {
            [_] => format!("{name}: none"),
            rows => format!("{name}:\n{}", table(rows)),
        };
        [
            part("parked reports", &parked),
            part("reports that fail", &waiting),
            part("drifts (Stripe was told more units than ClickHouse has)", &drifts),
            part("waiting carries (late usage that is on no invoice yet)", &carries),
            part(
                "subscriptions that lack a metered price of their plan (`stripe sync` adds it)",
                &unbilled,
            ),
            part(
                "events from Stripe that fail (`stripe retry` tries a parked one again)",
                &events,
            ),
            part("tasks in Stripe that fail, and are repeated until they succeed", &tasks),
            part("findings in Stripe", &findings),
            part(
                "invoices that are not what is owed (`reconcile --period all --account <account> --fresh` compares again)",
                &differences,
            ),
        ]
        .join("\n\n")
    })
}

pub(super) fn accepted(json: bool, accepted: &DifferenceView) -> Result<()> {
    out(json, accepted, || {
        table(&[row(DIFFERENCE_HEADING), difference_cells(accepted)])
    })
}

const DIFFERENCE_HEADING: [&str; 4] = ["account", "period", "invoiced too much", "what is wrong"];

fn difference_cells(difference: &DifferenceView) -> Vec<String> {
    vec![
        difference.account_id.to_string(),
        instant(difference.period_start),
        money::text(difference.difference_cents, &difference.currency),
        difference.differences.join("; "),
    ]
}

const REPORT_HEADING: [&str; 6] = ["report", "account", "units", "state", "attempts", ""];

fn report_cells(report: &ReportView) -> [String; 6] {
    [
        report.identifier.clone(),
        report.account_id.to_string(),
        (report.to_units - report.from_units).to_string(),
        report.state.clone(),
        report.attempts.to_string(),
        report.error.clone().unwrap_or_default(),
    ]
}

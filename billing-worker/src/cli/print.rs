//! The output of commands: text for people, or one JSON value.

use anyhow::{Context, Result};
use schema::{Currency, Interval, prices::ByCurrency};
use serde::Serialize;
use serde_json::json;
use std::io::{Write, stdout};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    accounts::{
        keys::{IssuedKey, Key, RotatedKey},
        plans::{PlansAndVersions, Synced},
        status::AccountStatus,
        view::{Account, AccountDetails},
    },
    administration::{audit::Audited, page::Listed},
    corrections::{correction::Correction, request::Corrected},
    spend_caps::cap::SpendCap,
};

pub(super) fn version(json: bool, version: i64) -> Result<()> {
    out(json, &json!({ "version": version }), || {
        format!("the database has schema version {version}")
    })
}

pub(super) fn synced(json: bool, synced: Synced) -> Result<()> {
    out(json, &synced, || {
        format!(
            "{} plans copied; limits of {} accounts changed",
            synced.plans, synced.accounts_changed
        )
    })
}

pub(super) fn account(json: bool, details: &AccountDetails) -> Result<()> {
    out(json, details, || {
        let account = &details.account;
        let mut rows = vec![
            row(["account", &account.id.to_string()]),
            row(["name", &account.name]),
            row(["e-mail", &account.email]),
            row(["status", account.status.as_str()]),
            row(["plan", &account.plan]),
            row([
                "version",
                &details
                    .paying
                    .plan_version
                    .map_or_else(|| "follows the catalogue".to_owned(), |n| n.to_string()),
            ]),
            row(["period", &instant(details.period_start)]),
            row(["until", &instant(details.period_end)]),
        ];
        if let Some((interval, end)) = details.paying.interval.zip(details.paying.paid_period_end) {
            rows.push(row(["paid per", &format!("{interval}, until {}", instant(end))]));
        }
        if details.payment_required {
            rows.push(row(["payment", "required: metered calls are answered 402"]));
        }
        let limits = details.limits.iter().map(|limit| {
            let note = match limit.unapplied_override {
                _ if limit.overridden => "override".to_owned(),
                Some(agreed) => format!("{}; the override {agreed} does not apply", limit.mode),
                None => limit.mode.to_owned(),
            };
            let note = match limit.unbilled {
                Some(why) => format!("{note} ({why})"),
                None => note,
            };
            row([
                limit.usage_type,
                &units(limit.limit),
                &limit.granted_units.to_string(),
                &note,
            ])
        });
        let heading = [row(["usage type", "limit", "granted", ""])];
        let limits: Vec<_> = heading.into_iter().chain(limits).collect();
        format!("{}\n\n{}", table(&rows), table(&limits))
    })
}

pub(super) fn spend_cap(json: bool, cap: &SpendCap) -> Result<()> {
    out(json, cap, || {
        let cents = |cents: i64| format!("{cents} cents ({})", cap.currency);
        let limits = match cap.usage_types.is_empty() || cap.cents.is_none() {
            true if cap.cents.is_none() => "nothing".to_owned(),
            true => "nothing: the account pays for no usage now".to_owned(),
            false => cap.usage_types.join(", "),
        };
        let in_force = match (cap.cents, cap.in_force_since) {
            (None, _) => "no".to_owned(),
            (Some(_), None) => "not yet, normally within two seconds: run `spend-cap show` again".to_owned(),
            (Some(_), Some(since)) => format!("since {}", instant(since)),
        };
        table(&[
            row(["cap", &cap.cents.map_or_else(|| "none".to_owned(), cents)]),
            row(["used", &cents(cap.used_cents)]),
            row(["in force", &in_force]),
            row(["resets", &instant(cap.resets_at)]),
            row(["limits", &limits]),
        ])
    })
}

pub(super) fn accounts(json: bool, listed: &Listed<Account>) -> Result<()> {
    out(json, listed, || {
        let account = |account: &Account| {
            let suspended = if account.status == AccountStatus::Suspended {
                "suspended"
            } else {
                ""
            };
            let id = account.id.to_string();
            row([&id, &account.plan, &account.email, &account.name, suspended])
        };
        list(["account", "plan", "e-mail", "name", ""], listed, account)
    })
}

pub(super) fn key(json: bool, key: &Key) -> Result<()> {
    out(json, key, || table(&key_rows(key)))
}

pub(super) fn keys(json: bool, listed: &Listed<Key>) -> Result<()> {
    out(json, listed, || {
        let key = |key: &Key| {
            let expires = key.expires_at.map(instant).unwrap_or_default();
            row([
                &key.id.to_string(),
                key.status.as_str(),
                &key.scopes.to_string(),
                &instant(key.created_at),
                &expires,
                &key.name,
            ])
        };
        list(["key", "status", "scopes", "created", "expires", "name"], listed, key)
    })
}

pub(super) fn issued(json: bool, issued: &IssuedKey) -> Result<()> {
    out(json, issued, || issued_text(issued))
}

pub(super) fn rotated(json: bool, rotated: &RotatedKey) -> Result<()> {
    out(json, rotated, || {
        let until = rotated.replaces.expires_at.map(instant).unwrap_or_default();
        format!(
            "{}\nThe replaced key {} keeps working until {until}.",
            issued_text(&rotated.issued),
            rotated.replaces.id
        )
    })
}

pub(super) fn plans(json: bool, list: &PlansAndVersions) -> Result<()> {
    out(json, list, || {
        let heading = [
            "plan",
            "cents per month",
            "per year",
            "usage type",
            "limit",
            "mode",
            "micros per unit",
            "retention",
        ]
        .map(str::to_owned);
        let rows = list.plans.iter().flat_map(|plan| {
            let kept = plan
                .retention_days
                .map_or("unlimited".to_owned(), |days| format!("{days} days"));
            let price = |interval| plan.prices.get(&interval).map(by_currency).unwrap_or_default();
            let id = match plan.listed {
                true => plan.id.clone(),
                false => format!("{} (not listed)", plan.id),
            };
            plan.limits.iter().enumerate().map(move |(n, limit)| {
                let once = |text: &str| if n == 0 { text.to_owned() } else { String::new() };
                vec![
                    once(&id),
                    once(&price(Interval::Month)),
                    once(&price(Interval::Year)),
                    limit.usage_type.to_owned(),
                    units(limit.limit),
                    limit.mode.to_owned(),
                    by_currency(&limit.unit_prices),
                    once(&kept),
                ]
            })
        });
        let plans = table(&[heading.into()].into_iter().chain(rows).collect::<Vec<_>>());
        let heading = row(["version", "cents per month", "paying accounts", ""]);
        let versions = list.versions.iter().map(|version| {
            row([
                &version.name,
                &version.price_cents.to_string(),
                &version.accounts.to_string(),
                if version.is_current { "current" } else { "" },
            ])
        });
        let versions: Vec<_> = std::iter::once(heading).chain(versions).collect();
        format!("{plans}\n\n{}", table(&versions))
    })
}

/// `2900`, or with several currencies `2700 eur, 2900 usd`.
fn by_currency(amounts: &ByCurrency) -> String {
    let only = amounts.get(&Currency::USD).filter(|_| amounts.len() == 1);
    if let Some(only) = only {
        return only.to_string();
    }
    let amounts: Vec<_> = amounts
        .iter()
        .map(|(currency, amount)| format!("{amount} {currency}"))
        .collect();
    amounts.join(", ")
}

pub(super) fn corrected(json: bool, corrected: &Corrected) -> Result<()> {
    out(json, corrected, || {
        let rows = [
            row(["correction", &corrected.correction_id.to_string()]),
            row(["account", &corrected.account_id.to_string()]),
            row(["events", &corrected.events.len().to_string()]),
            row(["units", &corrected.delta_units.to_string()]),
        ];
        let note = match corrected.repeated {
            true => "The correction exists already: nothing was changed.",
            false => "A running service publishes it within seconds.",
        };
        format!("{}\n{note}", table(&rows))
    })
}

pub(super) fn corrections(json: bool, listed: &Listed<Correction>) -> Result<()> {
    out(json, listed, || {
        let correction = |correction: &Correction| {
            row([
                &correction.correction_id.to_string(),
                &correction.account_id.to_string(),
                &correction.id.to_string(),
                &correction.event_id.to_string(),
                &correction.delta_units.to_string(),
                &correction.published_at.map_or("waiting".to_owned(), instant),
                &correction.requested_by,
                &correction.reason,
            ])
        };
        let heading = [
            "correction",
            "account",
            "correcting event",
            "corrects",
            "units",
            "published",
            "by",
            "reason",
        ];
        list(heading, listed, correction)
    })
}

pub(super) fn audit(json: bool, listed: &Listed<Audited>) -> Result<()> {
    out(json, listed, || {
        let audited = |audited: &Audited| {
            let account = audited.account_id.map(|id| id.to_string()).unwrap_or_default();
            row([
                &instant(audited.at),
                &audited.actor,
                audited.actor_name.as_deref().unwrap_or_default(),
                &audited.action,
                &account,
                &audited.subject,
                &audited.details.to_string(),
            ])
        };
        list(
            ["at", "by", "name", "action", "account", "subject", "details"],
            listed,
            audited,
        )
    })
}

pub(super) fn out(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(value)?,
        false => text(),
    };
    writeln!(stdout(), "{text}").context("writing to standard output")
}

fn issued_text(issued: &IssuedKey) -> String {
    format!(
        "{}\n{}\nThe key is shown only once: store it now.",
        table(&[row(["api key", &issued.key])]),
        table(&key_rows(&issued.about))
    )
}

fn key_rows(key: &Key) -> Vec<Vec<String>> {
    let mut rows = vec![
        row(["key", &key.id.to_string()]),
        row(["account", &key.account_id.to_string()]),
        row(["name", &key.name]),
        row(["status", key.status.as_str()]),
        row(["scopes", &key.scopes.to_string()]),
    ];
    rows.extend(key.expires_at.map(|at| row(["expires", &instant(at)])));
    rows.extend(key.revoked_at.map(|at| row(["revoked", &instant(at)])));
    rows
}

pub(super) fn list<T, const N: usize>(
    heading: [&str; N],
    listed: &Listed<T>,
    entry: impl Fn(&T) -> Vec<String>,
) -> String {
    let rows: Vec<_> = [row(heading)]
        .into_iter()
        .chain(listed.items.iter().map(entry))
        .collect();
    match listed.next {
        None => table(&rows),
        Some(next) => format!("{}\nThere are more entries: --after {next}", table(&rows)),
    }
}

fn units(limit: Option<i64>) -> String {
    limit.map_or("none".to_owned(), |units| units.to_string())
}

pub(super) fn instant(at: OffsetDateTime) -> String {
    // Years from the database always have four digits, so this does not fail.
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Formats a table; each column is as wide as its widest cell.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        cells.collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

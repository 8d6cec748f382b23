//! The output of `reconcile`: units and money in one table, then what is wrong in plain sentences.

use anyhow::Result;
use protocol::reports::money::MoneyState;
use time::OffsetDateTime;

use super::super::print::{instant, out, row, table};
use crate::reports::{
    money::{Amounts, Part, PeriodMoney},
    reconcile::{LineState, Reconciliation, Row},
};

const HEADING: [&str; 15] = [
    "account",
    "period",
    "usage type",
    "clickhouse",
    "carried in",
    "carried out",
    "ledger",
    "stripe",
    "difference",
    "owed",
    "invoiced",
    "credited",
    "pending",
    "open",
    "state",
];

/// The table omits lines without usage and without money; the JSON contains them.
pub(super) fn print(json: bool, reconciliation: &Reconciliation) -> Result<()> {
    out(json, reconciliation, || {
        let mut rows = vec![row(HEADING)];
        let (mut units, money) = (reconciliation.rows.iter().peekable(), &reconciliation.money);
        let mut sentences = Vec::new();
        for period in money {
            let is_here = |row: &&Row| (row.account_id, row.period_start) == (period.account_id, period.period_start);
            let plan = period.parts.iter().filter(|part| part.usage_type.is_none());
            rows.extend(plan.map(|part| plan_row(period, part)));
            while let Some(units) = units.next_if(|row| is_before(row, period) || is_here(row)) {
                let of_row = |part: &&Part| is_here(&units) && part.usage_type.as_ref() == Some(&units.usage_type);
                rows.extend(unit_row(units, period.parts.iter().find(of_row)));
            }
            let place = || format!("{} {}", period.account_id, instant(period.period_start));
            let differences = period
                .differences
                .iter()
                .map(|text| format!("DIFFERENCE {} {text}", place()));
            let accepted = period
                .accepted
                .iter()
                .map(|accepted| format!("accepted {} on {}: {}", place(), instant(accepted.at), accepted.reason));
            sentences.extend(
                differences
                    .chain(accepted)
                    .chain(period.notes.iter().map(|text| format!("note {} {text}", place()))),
            );
        }
        rows.extend(units.filter_map(|units| unit_row(units, None)));
        rows.extend(totals(reconciliation));
        let mut text = table(&rows);
        for sentence in sentences {
            text.push('\n');
            text.push_str(&sentence);
        }
        text
    })
}

fn is_before(row: &Row, period: &PeriodMoney) -> bool {
    (row.account_id, row.period_start) < (period.account_id, period.period_start)
}

fn unit_row(units: &Row, part: Option<&Part>) -> Option<Vec<String>> {
    let numbers = &units.numbers;
    let is_used = [
        numbers.clickhouse_units,
        numbers.carried_in,
        numbers.carried_out,
        numbers.ledger_units,
        numbers.open_units,
        numbers.stripe_units.unwrap_or(1),
    ]
    .iter()
    .any(|units| *units != 0);
    let is_nothing = |part: &Part| part.amounts == Amounts::default() && part.differences.is_empty();
    if !is_used && part.is_none_or(is_nothing) {
        return None;
    }
    // The worse of units and money.
    let state = match (units.state, part.map(|part| part.state)) {
        (LineState::Difference, _) | (_, Some(MoneyState::Difference)) => "DIFFERENCE",
        (LineState::Open, _) | (_, Some(MoneyState::Open)) => "open",
        (LineState::Pending, _) | (_, Some(MoneyState::Pending)) => "pending",
        (LineState::Ok, Some(MoneyState::Free)) => "free",
        (LineState::Ok, _) if units.frozen => "frozen",
        (LineState::Ok, _) => "ok",
    };
    let note = units
        .note
        .as_deref()
        .map(|note| format!(": {note}"))
        .unwrap_or_default();
    let (account, period) = place(units.account_id, units.period_start);
    let counts = [
        numbers.clickhouse_units.to_string(),
        numbers.carried_in.to_string(),
        numbers.carried_out.to_string(),
        numbers.ledger_units.to_string(),
        numbers.stripe_units.map_or("?".to_owned(), |units| units.to_string()),
        units.difference_units.to_string(),
    ];
    let money = part.map_or_else(|| [const { String::new() }; 5], |part| amounts(&part.amounts));
    let cells = [account, period, units.usage_type.clone()]
        .into_iter()
        .chain(counts)
        .chain(money);
    Some(cells.chain([format!("{state}{note}")]).collect())
}

fn plan_row(period: &PeriodMoney, part: &Part) -> Vec<String> {
    let (account, start) = place(period.account_id, period.period_start);
    let state = match part.state {
        MoneyState::Difference => "DIFFERENCE",
        state => state.as_str(),
    };
    let cells = [account, start, "(plan)".to_owned()]
        .into_iter()
        .chain([const { String::new() }; 6]);
    cells.chain(amounts(&part.amounts)).chain([state.to_owned()]).collect()
}

/// Units, and a row for the money in each currency.
fn totals(reconciliation: &Reconciliation) -> Vec<Vec<String>> {
    let totals = &reconciliation.totals;
    let units = [
        totals.clickhouse_units,
        totals.carried_in,
        totals.carried_out,
        totals.ledger_units,
        totals.stripe_units,
    ];
    let cells = ["all", "", ""]
        .map(str::to_owned)
        .into_iter()
        .chain(units.map(|units| units.to_string()));
    let states = format!(
        "{} lines differ, {} pending, {} open; {} periods differ",
        totals.differing, totals.pending, totals.open, totals.differing_periods
    );
    let units = cells.chain([const { String::new() }; 6]).chain([states]).collect();
    let money = totals.money.iter().map(|(currency, sums)| {
        let cells = ["all", "", currency].map(str::to_owned).into_iter();
        let cells = cells.chain([const { String::new() }; 6]).chain(amounts(sums));
        let state = match sums.difference_cents {
            0 => String::new(),
            difference => format!("periods differ by {}", cents(difference)),
        };
        cells.chain([state]).collect()
    });
    std::iter::once(units).chain(money).collect()
}

fn place(account: schema::AccountId, period: OffsetDateTime) -> (String, String) {
    (account.to_string(), instant(period))
}

fn amounts(amounts: &Amounts) -> [String; 5] {
    [
        amounts.owed_cents,
        amounts.invoiced_cents,
        amounts.credited_cents,
        amounts.pending_cents,
        amounts.open_cents,
    ]
    .map(cents)
}

/// `29.00`
fn cents(cents: i64) -> String {
    let (sign, cents) = (if cents < 0 { "-" } else { "" }, cents.unsigned_abs());
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

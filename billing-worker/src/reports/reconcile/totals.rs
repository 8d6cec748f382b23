//! Sums over all lines and periods, and how many of them need somebody to look.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{LineState, Row, Waiting};
use crate::reports::money::{Amounts, PeriodMoney};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub rows: u64,
    pub clickhouse_units: i64,
    pub carried_in: i64,
    pub carried_out: i64,
    pub ledger_units: i64,
    pub stripe_units: i64,
    /// Lines whose units differ.
    pub differing: u64,
    pub pending: u64,
    /// Of those: lines with units that are not reported for too long.
    pub stuck: u64,
    /// Lines with late usage that is on no invoice yet.
    pub open: u64,
    /// Of those: lines where this lasts for longer than `OPEN_MONEY_AFTER`.
    pub overdue: u64,
    /// Periods whose money differs, without those that an operator has accepted.
    pub differing_periods: u64,
    /// By currency: amounts in different currencies have no sum. Differences are absolute: too much and too little are added up.
    pub money: BTreeMap<String, Amounts>,
}

impl Totals {
    pub(super) fn of(rows: &[Row], money: &[PeriodMoney], overdue_after_s: i64, now: i64) -> Self {
        let mut totals = Self::default();
        for row in rows {
            totals.add(&Self::of_row(row, overdue_after_s, now));
        }
        for period in money {
            totals.add(&Self::of_money(period));
        }
        totals
    }

    fn of_row(row: &Row, overdue_after_s: i64, now: i64) -> Self {
        let (numbers, is) = (&row.numbers, u64::from);
        let is_overdue = |waiting: &Waiting| waiting.is_older(overdue_after_s, now);
        Self {
            rows: 1,
            clickhouse_units: numbers.clickhouse_units,
            carried_in: numbers.carried_in,
            carried_out: numbers.carried_out,
            ledger_units: numbers.ledger_units,
            stripe_units: numbers.stripe_units.unwrap_or(0),
            differing: is(row.state == LineState::Difference),
            pending: is(row.state == LineState::Pending),
            stuck: is(row.stuck_units != 0),
            open: is(row.waiting.is_some()),
            overdue: is(row.waiting.as_ref().is_some_and(is_overdue)),
            ..Self::default()
        }
    }

    fn of_money(period: &PeriodMoney) -> Self {
        let differences = period
            .parts
            .iter()
            .map(|part| part.amounts.difference_cents.saturating_abs());
        let amounts = Amounts {
            difference_cents: match period.accepted {
                Some(_) => 0,
                None => differences.fold(0, i64::saturating_add),
            },
            ..period.amounts
        };
        Self {
            differing_periods: u64::from(period.is_open_difference()),
            money: BTreeMap::from([(period.currency.clone(), amounts)]),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.rows, other.rows),
            (&mut self.differing, other.differing),
            (&mut self.pending, other.pending),
            (&mut self.stuck, other.stuck),
            (&mut self.open, other.open),
            (&mut self.overdue, other.overdue),
            (&mut self.differing_periods, other.differing_periods),
        ] {
            *sum += part;
        }
        for (sum, part) in [
            (&mut self.clickhouse_units, other.clickhouse_units),
            (&mut self.carried_in, other.carried_in),
            (&mut self.carried_out, other.carried_out),
            (&mut self.ledger_units, other.ledger_units),
            (&mut self.stripe_units, other.stripe_units),
        ] {
            *sum = sum.saturating_add(part);
        }
        for (currency, amounts) in &other.money {
            *self.money.entry(currency.clone()).or_default() += *amounts;
        }
    }
}

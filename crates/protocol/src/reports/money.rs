//! Money of a segment: whether what the invoices ask for is what the usage and the plan cost. Pure.
//!
//! ```text
//! owed = invoiced − credited + pending + open + waived − difference
//! ```
//!
//! | what | module |
//! |---|---|
//! | what units cost | [`price`] |
//! | the usage of one type: counted, reported, invoiced, late, credited | [`usage`] |
//! | the price of the plan, and prorations of it | [`plan`] |
//! | the customer's balance, which credit notes and people change | [`balance`] |
//!
//! # Promises
//! - A difference of a cent has a sentence that says where it is. So has a quantity that is wrong and costs nothing.
//! - Without a difference, every cent that is owed is on an invoice, is not due yet, is open, or was waived by somebody.

pub mod balance;
pub mod plan;
pub mod price;
#[cfg(test)]
mod tests;
pub mod usage;

use std::ops::AddAssign;

pub use self::{balance::explain_balance, plan::explain_plan, price::Price, usage::explain};

/// Amounts in the smallest unit of the currency, before discounts and tax.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Money {
    /// What the units cost, corrections included.
    pub owed: i64,
    /// Lines of final invoices.
    pub invoiced: i64,
    /// What credit notes for corrections returned.
    pub credited: i64,
    /// On no final invoice, and it is not due yet: the period runs, or its invoice is a draft.
    pub pending: i64,
    /// Late usage and corrections that are on no invoice and no credit note yet. Negative: a credit.
    pub open: i64,
    /// Void invoices, and credits for which the invoices had nothing left. Negative: the customer paid more.
    pub waived: i64,
    /// Invoiced too much. Negative: too little.
    pub difference: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MoneyState {
    /// Nobody pays for it: a trial.
    Free,
    #[default]
    Ok,
    /// Not invoiced yet, and it is not due.
    Pending,
    /// Owed, and on no invoice yet.
    Open,
    Difference,
}

/// What is owed and what is invoiced, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    pub money: Money,
    pub state: MoneyState,
    /// One plain sentence each.
    pub differences: Vec<String>,
    /// What is right, and not obvious.
    pub notes: Vec<String>,
}

impl MoneyState {
    pub const ALL: [Self; 5] = [Self::Free, Self::Ok, Self::Pending, Self::Open, Self::Difference];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Ok => "ok",
            Self::Pending => "pending",
            Self::Open => "open",
            Self::Difference => "difference",
        }
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        for (sum, part) in [
            (&mut self.owed, other.owed),
            (&mut self.invoiced, other.invoiced),
            (&mut self.credited, other.credited),
            (&mut self.pending, other.pending),
            (&mut self.open, other.open),
            (&mut self.waived, other.waived),
            (&mut self.difference, other.difference),
        ] {
            *sum = sum.saturating_add(part);
        }
    }
}

impl Money {
    /// What is left to explain decides the difference.
    fn balanced(mut self) -> Self {
        let [owed, invoiced, credited] = [self.owed, self.invoiced, self.credited].map(i128::from);
        let [pending, open, waived] = [self.pending, self.open, self.waived].map(i128::from);
        self.difference = clamped(invoiced - credited + pending + open + waived - owed);
        self
    }
}

impl Explained {
    /// A part of the same segment.
    pub fn add(&mut self, part: Self) {
        self.money += part.money;
        self.state = self.state.max(part.state);
        self.differences.extend(part.differences);
        self.notes.extend(part.notes);
    }

    /// Finishes the sums. A difference is never silent.
    fn closed(mut self, currency: &str) -> Self {
        self.money = self.money.balanced();
        let Money {
            difference,
            open,
            pending,
            ..
        } = self.money;
        if difference != 0 && self.differences.is_empty() {
            let amount = text(difference, currency);
            self.differences
                .push(format!("the invoices differ by {amount} from what is owed"));
        }
        self.state = match () {
            () if !self.differences.is_empty() => MoneyState::Difference,
            () if open != 0 => MoneyState::Open,
            () if pending != 0 => MoneyState::Pending,
            () => self.state,
        };
        self
    }
}

/// `29.00 usd`: the catalogue has no currency without cents.
pub fn text(cents: i64, currency: &str) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02} {currency}", cents / 100, cents % 100)
}

fn clamped(cents: i128) -> i64 {
    i64::try_from(cents).unwrap_or(if cents < 0 { i64::MIN } else { i64::MAX })
}

fn sum(cents: impl IntoIterator<Item = i64>) -> i64 {
    clamped(cents.into_iter().map(i128::from).sum())
}

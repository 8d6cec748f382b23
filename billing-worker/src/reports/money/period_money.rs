//! The money of one segment, as commands print it and `money_checks` stores it.

use std::ops::AddAssign;

use protocol::reports::money::{Explained, Money, MoneyState};
use schema::AccountId;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::reports::accepted::Accepted;

#[derive(Clone, Debug, Serialize)]
pub struct PeriodMoney {
    pub account_id: AccountId,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub period_end: OffsetDateTime,
    pub currency: String,
    #[serde(serialize_with = "name")]
    pub state: MoneyState,
    #[serde(flatten)]
    pub amounts: Amounts,
    /// The plan, and each usage type that costs something.
    pub parts: Vec<Part>,
    pub differences: Vec<String>,
    pub notes: Vec<String>,
    /// An operator has settled a difference of this amount.
    pub accepted: Option<Accepted>,
}

/// A usage type, or the plan.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// `None`: the plan.
    pub usage_type: Option<String>,
    #[serde(serialize_with = "name")]
    pub state: MoneyState,
    #[serde(flatten)]
    pub amounts: Amounts,
    pub differences: Vec<String>,
    pub notes: Vec<String>,
}

/// In the currency's smallest unit, before discounts and tax; see [`Money`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    pub owed_cents: i64,
    pub invoiced_cents: i64,
    pub credited_cents: i64,
    pub pending_cents: i64,
    pub open_cents: i64,
    pub waived_cents: i64,
    pub difference_cents: i64,
}

impl PeriodMoney {
    /// Somebody has to look at it.
    pub fn is_open_difference(&self) -> bool {
        self.state == MoneyState::Difference && self.accepted.is_none()
    }
}

fn name<S: Serializer>(state: &MoneyState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

impl From<Money> for Amounts {
    fn from(money: Money) -> Self {
        Self {
            owed_cents: money.owed,
            invoiced_cents: money.invoiced,
            credited_cents: money.credited,
            pending_cents: money.pending,
            open_cents: money.open,
            waived_cents: money.waived,
            difference_cents: money.difference,
        }
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        for (sum, part) in [
            (&mut self.owed_cents, other.owed_cents),
            (&mut self.invoiced_cents, other.invoiced_cents),
            (&mut self.credited_cents, other.credited_cents),
            (&mut self.pending_cents, other.pending_cents),
            (&mut self.open_cents, other.open_cents),
            (&mut self.waived_cents, other.waived_cents),
            (&mut self.difference_cents, other.difference_cents),
        ] {
            *sum = sum.saturating_add(part);
        }
    }
}

impl Part {
    pub(super) fn new(usage_type: Option<&str>, explained: &Explained) -> Self {
        Self {
            usage_type: usage_type.map(str::to_owned),
            state: explained.state,
            amounts: explained.money.into(),
            differences: explained.differences.clone(),
            notes: explained.notes.clone(),
        }
    }
}

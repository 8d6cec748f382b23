use serde::Deserialize;

/// An element of a list of discounts or taxes, in the currency's smallest unit.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Amount {
    amount: i64,
}

impl Amount {
    pub(super) fn sum(amounts: Option<&[Self]>) -> i64 {
        let amounts = amounts.into_iter().flatten();
        amounts.fold(0, |sum, amount| sum.saturating_add(amount.amount))
    }
}

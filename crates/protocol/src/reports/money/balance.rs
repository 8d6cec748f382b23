//! Explains the balance of a customer, which pays the next invoice: each credit note must have reached it, and what a person changed
//! is said.

use super::{Explained, text};

/// A change of the balance. As in Stripe, a negative amount is a credit for the customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceChange<'a> {
    pub id: &'a str,
    pub amount: i64,
    /// The credit note that made it.
    pub note: Option<&'a str>,
    /// A person or another program made it.
    pub is_adjustment: bool,
}

/// A credit note for a correction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreditNote<'a> {
    pub id: &'a str,
    /// What it gives back of a paid invoice, tax included.
    pub returned: i64,
}

/// What is wrong with the balance, by these credit notes and changes.
pub fn explain_balance(notes: &[CreditNote<'_>], changes: &[BalanceChange<'_>], currency: &str) -> Explained {
    let mut explained = Explained::default();
    for note in notes {
        let of_note = changes.iter().filter(|change| change.note == Some(note.id));
        let reached = of_note.fold(0_i64, |sum, change| sum.saturating_sub(change.amount));
        let missing = note.returned.saturating_sub(reached);
        if missing != 0 {
            explained.money.credited = explained.money.credited.saturating_sub(missing);
            explained.differences.push(format!(
                "credit note {} returns {}, and {} of it reached the customer's balance",
                note.id,
                text(note.returned, currency),
                text(reached, currency)
            ));
        }
    }
    for change in changes.iter().filter(|change| change.is_adjustment) {
        let (amount, what) = match change.amount {
            ..=0 => (change.amount.saturating_neg(), "pays"),
            amount => (amount, "adds"),
        };
        explained.notes.push(format!(
            "somebody changed the customer's balance: it {what} {} on the next invoices ({})",
            text(amount, currency),
            change.id
        ));
    }
    explained.closed(currency)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::money::MoneyState;

    #[test]
    fn a_credit_note_reaches_the_balance_and_a_person_may_change_it() {
        let note = CreditNote {
            id: "cn_1",
            returned: 750,
        };
        let change = |amount, note, is_adjustment| BalanceChange {
            id: "cbtxn_1",
            amount,
            note,
            is_adjustment,
        };
        let explain = |changes: &[BalanceChange<'_>]| explain_balance(std::slice::from_ref(&note), changes, "usd");
        let right = explain(&[change(-750, Some("cn_1"), false), change(750, None, false)]);
        assert_eq!(right, Explained::default());
        let lost = explain(&[change(-500, Some("cn_1"), false), change(-250, Some("cn_2"), false)]);
        assert_eq!((lost.state, lost.money.difference), (MoneyState::Difference, 250));
        assert_eq!(
            lost.differences,
            ["credit note cn_1 returns 7.50 usd, and 5.00 usd of it reached the customer's balance"]
        );
        let by_hand = explain_balance(&[], &[change(-300, None, true), change(200, None, true)], "usd");
        assert_eq!(by_hand.state, MoneyState::Ok);
        assert_eq!(
            by_hand.notes,
            [
                "somebody changed the customer's balance: it pays 3.00 usd on the next invoices (cbtxn_1)",
                "somebody changed the customer's balance: it adds 2.00 usd on the next invoices (cbtxn_1)"
            ]
        );
    }
}

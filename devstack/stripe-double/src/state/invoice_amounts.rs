//! What the lines of an invoice add up to: discounts, tax, the customer's balance and credit notes.

use crate::money::share;
use crate::objects::coupon::Off;
use crate::objects::invoice::{Invoice, LineAmounts, Status};
use crate::state::State;

impl Invoice {
    /// The lines with their discounts and tax. A discount takes its part of every line, of a credit too: Stripe's prorations include
    /// discounts. The tax of each line is rounded once.
    pub(crate) fn amounts(&self, state: &State) -> Vec<LineAmounts> {
        let lines = self.all_lines(state).into_iter();
        let mut amounts: Vec<_> = lines
            .map(|line| LineAmounts {
                line,
                discounts: Vec::new(),
                tax: 0,
            })
            .collect();
        for discount in self.discounts.iter().filter_map(|id| state.discounts.get(id)) {
            let left: Vec<_> = amounts.iter().map(LineAmounts::without_tax).collect();
            let cuts = cuts(&discount.off, &left).into_iter();
            for (amounts, cut) in amounts.iter_mut().zip(cuts).filter(|(_, cut)| *cut != 0) {
                amounts.discounts.push((discount.id.clone(), cut));
            }
        }
        for amounts in &mut amounts {
            amounts.tax = share(amounts.without_tax(), self.tax_basis_points.unwrap_or(0), 10_000);
        }
        amounts
    }

    pub(crate) fn total(&self, state: &State) -> i64 {
        let amounts = self.amounts(state);
        amounts.iter().fold(0, |sum, one| {
            sum.saturating_add(one.without_tax()).saturating_add(one.tax)
        })
    }

    /// The amount that is due after the customer's balance and credit notes. A credit, which is negative, lowers it to zero at most.
    pub(crate) fn amount_due(&self, state: &State) -> i64 {
        let total = self.total(state);
        let due = match self.balances {
            Some((before, after)) => total.saturating_add(before).saturating_sub(after),
            None => {
                let customer = state.customers.get(&self.customer);
                total.saturating_add(customer.map_or(0, |customer| customer.balance))
            }
        };
        (due - state.credited(&self.id).pre_payment).max(0)
    }

    pub(crate) fn amount_remaining(&self, state: &State) -> i64 {
        match self.status {
            Status::Paid => 0,
            _ => self.amount_due(state),
        }
    }
}

/// What a discount takes off each of these amounts.
fn cuts(off: &Off, amounts: &[i64]) -> Vec<i64> {
    match off {
        Off::Percent(hundredths) => {
            let part = |amount: &i64| share(*amount, i64::from(*hundredths), 10_000);
            amounts.iter().map(part).collect()
        }
        Off::Amount(cents, _) => {
            // Spread over the charges, to the cent.
            let mut rest: i64 = amounts.iter().filter(|amount| **amount > 0).sum();
            let mut left = (*cents).min(amounts.iter().sum::<i64>().max(0));
            let mut cut = |amount: i64| {
                let cut = share(left, amount, rest);
                (left, rest) = (left - cut, rest - amount);
                cut
            };
            let charge = |amount: &i64| if *amount > 0 { cut(*amount) } else { 0 };
            amounts.iter().map(charge).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_of_an_amount_add_up_to_it_and_never_exceed_the_charges() {
        let off = |cents| Off::Amount(cents, "usd".to_owned());
        assert_eq!(cuts(&off(100), &[1, 1, 1, 997]), [0, 0, 0, 100]);
        assert_eq!(cuts(&off(100), &[333, 333, 334]).iter().sum::<i64>(), 100);
        assert_eq!(cuts(&off(900), &[600, -200, 400]).iter().sum::<i64>(), 800);
        assert_eq!(cuts(&Off::Percent(1_250), &[1_000, -80]), [125, -10]);
    }
}

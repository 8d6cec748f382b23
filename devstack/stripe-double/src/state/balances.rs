//! Changes the balances of customers, and records each change.

use crate::objects::balance_transaction::{BalanceChange, BalanceTransaction};
use crate::state::State;

impl State {
    /// Changes the balance of a customer who is not deleted. Returns the transaction's id; `None` if nothing changes.
    pub(crate) fn change_balance(&mut self, customer: &str, change: BalanceChange) -> Option<String> {
        let living = self.customers.get(customer).filter(|customer| !customer.deleted);
        let mut customer = living.filter(|_| change.amount != 0)?.clone();
        let before = customer.render();
        customer.balance = customer.balance.saturating_add(change.amount);
        let id = customer.id.clone();
        self.replace_customer(customer, &before);
        self.record_balance(&id, change)
    }

    /// Records a change that the balance already has.
    pub(crate) fn record_balance(&mut self, customer: &str, change: BalanceChange) -> Option<String> {
        let customer = self.customers.get(customer).filter(|_| change.amount != 0)?;
        let (customer_id, ending_balance) = (customer.id.clone(), customer.balance);
        let currency = customer.currency.clone().unwrap_or_else(|| "usd".to_owned());
        let id = self.ids.next("cbtxn");
        let transaction = BalanceTransaction {
            id: id.clone(),
            customer: customer_id,
            currency,
            created: self.now(),
            ending_balance,
            change,
        };
        self.balance_transactions.insert(&id, transaction);
        Some(id)
    }
}

//! The API of the transactions of a customer's balance.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::balance_transaction::{BalanceChange, BalanceTransaction};
use crate::objects::metadata::merge_metadata;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["amount", "currency", "description", "metadata"];

/// An adjustment by the operator.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let customer = state
        .living_customer(call.id)
        .map_err(|_| Failure::not_found("customer", call.id))?;
    let currency = call.params.text("currency").unwrap_or_default().to_lowercase();
    // Stripe's own sentence for this refusal is not documented.
    if customer.currency.as_ref().is_some_and(|bound| *bound != currency) {
        return Err(Failure::currency_mismatch(
            customer.currency.as_deref().unwrap_or_default(),
        ));
    }
    let mut change = BalanceChange::of("adjustment", call.params.int("amount").unwrap_or(0));
    change.description = call.params.filled("description").map(str::to_owned);
    merge_metadata(&mut change.metadata, call.params);
    if change.amount == 0 {
        return Err(Failure::invalid("The amount of a balance transaction must not be zero.").param("amount"));
    }
    state.bind_currency(call.id, &currency);
    let id = state.change_balance(call.id, change).unwrap_or_default();
    retrieve(state, &Call { id: &id, ..*call })
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let transaction = state.balance_transactions.get(call.id);
    transaction
        .map(BalanceTransaction::render)
        .ok_or_else(|| Failure::not_found("customer balance transaction", call.id))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    state
        .known_customer(call.id)
        .map_err(|_| Failure::not_found("customer", call.id))?;
    let wanted = |transaction: &BalanceTransaction| {
        transaction.customer == call.id
            && in_range(call.params, "created", transaction.created)
            && is(
                call.params,
                "invoice",
                transaction.change.invoice.as_deref().unwrap_or_default(),
            )
    };
    let rows = state.balance_transactions.iter().rev().filter(|(_, row)| wanted(row));
    let rows = rows.map(|(id, row)| (id.to_owned(), row.render())).collect();
    list::page(
        &format!("/v1/customers/{}/balance_transactions", call.id),
        call.params,
        rows,
    )
}

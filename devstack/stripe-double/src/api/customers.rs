//! The API of customers.

use serde_json::Value;

use crate::api::call::Call;
use crate::billing::ending;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::balance_transaction::BalanceChange;
use crate::objects::customer::Customer;
use crate::objects::metadata::Metadata;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "email",
    "name",
    "description",
    "phone",
    "metadata",
    "balance",
    "address",
    "test_clock",
    "payment_method",
    "invoice_settings",
];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let id = state.ids.next("cus");
    let mut customer = Customer {
        id: id.clone(),
        email: None,
        name: None,
        description: None,
        phone: None,
        metadata: Metadata::new(),
        created: call.now,
        balance: 0,
        address: None,
        test_clock: None,
        card: None,
        payment_method: None,
        attached: Vec::new(),
        deleted: false,
        currency: None,
        invoice_prefix: state.ids.text(8).to_uppercase(),
        invoices_numbered: 0,
    };
    customer.apply(call.params)?;
    if let Some(clock) = call.params.filled("test_clock") {
        let known = state.test_clocks.get(clock);
        known.ok_or_else(|| Failure::no_such("test clock", clock).param("test_clock"))?;
        customer.test_clock = Some(clock.to_owned());
    }
    if customer.card.is_none()
        && let Some(card) = state.settings.new_customers_card
    {
        let payment_method = state.ids.next("pm");
        customer.set_card(Some(card), payment_method);
    }
    let object = customer.render();
    let balance = customer.balance;
    state.customers.insert(&id, customer);
    state.record_balance(&id, BalanceChange::of("initial", balance));
    state.emit("customer.created", object.clone(), None);
    Ok(object)
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let customer = state.customers.get(call.id);
    customer
        .map(Customer::render)
        .ok_or_else(|| Failure::not_found("customer", call.id))
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let mut customer = state
        .living_customer(call.id)
        .map_err(|_| Failure::not_found("customer", call.id))?
        .clone();
    let before = customer.render();
    let balance = customer.balance;
    customer.apply(call.params)?;
    let change = BalanceChange::of("adjustment", customer.balance - balance);
    state.replace_customer(customer, &before);
    state.record_balance(call.id, change);
    retrieve(state, call)
}

/// Deletes the customer and cancels all their subscriptions immediately.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let before = state
        .living_customer(call.id)
        .map_err(|_| Failure::not_found("customer", call.id))?
        .render();
    ending::cancel_all_of(state, call.id, call.now);
    if let Some(customer) = state.customers.get_mut(call.id) {
        customer.deleted = true;
    }
    state.emit("customer.deleted", before, None);
    retrieve(state, call)
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |customer: &Customer| {
        !customer.deleted
            && call.params.filled("test_clock") == customer.test_clock.as_deref()
            && in_range(call.params, "created", customer.created)
            && is(call.params, "email", customer.email.as_deref().unwrap_or_default())
    };
    let rows = state.customers.iter().rev().filter(|(_, customer)| wanted(customer));
    let rows = rows.map(|(id, customer)| (id.to_owned(), customer.render())).collect();
    list::page("/v1/customers", call.params, rows)
}

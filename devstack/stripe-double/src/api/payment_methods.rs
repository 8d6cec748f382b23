//! The API of payment methods: cards and bank accounts of customers.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::objects::customer::card_of;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["customer"];

/// Gives the customer a test card or bank account, with an id of its own. It pays nothing before it is a default.
pub(crate) fn attach(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let card = card_of(call.id)?;
    let customer = call.params.filled("customer").unwrap_or_default().to_owned();
    state.living_customer(&customer)?;
    let id = state.ids.next("pm");
    let mut object = None;
    if let Some(customer) = state.customers.get_mut(&customer) {
        customer.attached.push((id.clone(), card));
        object = customer.render_payment_method(&id);
    }
    let object = object.ok_or_else(|| Failure::not_found("PaymentMethod", &id))?;
    state.emit("payment_method.attached", object.clone(), None);
    Ok(object)
}

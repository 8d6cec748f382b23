//! The API of payment intents: reading them. Invoices make them.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::state::State;

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    state.render_payment(call.id)
}

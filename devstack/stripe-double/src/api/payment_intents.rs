//! The API of payment intents, and of the payments of invoices: reading them. Invoices make them.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list::{self, is};
use crate::objects::invoice::Invoice;
use crate::state::State;

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    state.render_payment(call.id)
}

/// `GET /v1/invoice_payments`
pub(crate) fn list_of_invoices(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |invoice: &Invoice| {
        let payment = invoice.payment.as_ref().map(|payment| payment.id.as_str());
        is(call.params, "invoice", &invoice.id)
            && is(call.params, "payment.payment_intent", payment.unwrap_or_default())
    };
    let invoices = state.invoices.iter().rev().filter(|(_, invoice)| wanted(invoice));
    let payments = invoices.filter_map(|(_, invoice)| invoice.render_payment(state));
    let rows = payments.map(|payment| (payment["id"].as_str().unwrap_or_default().to_owned(), payment));
    list::page("/v1/invoice_payments", call.params, rows.collect())
}

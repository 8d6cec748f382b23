//! The API of disputes: reading them. Banks make them, and a test in their place.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::dispute::{Dispute, Status};
use crate::state::State;

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let dispute = state.disputes.get(call.id);
    dispute
        .map(Dispute::render)
        .ok_or_else(|| Failure::not_found("dispute", call.id))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |dispute: &Dispute| {
        is(call.params, "charge", &dispute.charge)
            && is(call.params, "payment_intent", &dispute.payment_intent)
            && in_range(call.params, "created", dispute.created)
    };
    let rows = state.disputes.iter().rev().filter(|(_, dispute)| wanted(dispute));
    let rows = rows.map(|(id, dispute)| (id.to_owned(), dispute.render())).collect();
    list::page("/v1/disputes", call.params, rows)
}

/// A bank disputes the payment of an invoice. Returns the dispute's id.
pub(crate) fn open(state: &mut State, invoice: &str) -> Result<String, Failure> {
    let payment = state.invoice(invoice)?.payment.as_ref();
    let payment = payment.map(|payment| payment.id.clone()).unwrap_or_default();
    let (invoice, payment, charge) = state
        .charged_by(&payment)
        .ok_or_else(|| Failure::invalid(format!("the invoice {invoice} was not paid")))?;
    let mut dispute = Dispute {
        id: String::new(),
        charge,
        payment_intent: payment.id.clone(),
        amount: invoice.amount_paid,
        currency: invoice.currency.clone(),
        status: Status::NeedsResponse,
        created: state.now(),
    };
    dispute.id = state.ids.next("dp");
    let (id, object) = (dispute.id.clone(), dispute.render());
    state.disputes.insert(&id, dispute);
    state.emit("charge.dispute.created", object, None);
    Ok(id)
}

/// The bank decides.
pub(crate) fn close(state: &mut State, id: &str, status: Status) -> Result<(), Failure> {
    let dispute = state.disputes.get_mut(id);
    let dispute = dispute.ok_or_else(|| Failure::not_found("dispute", id))?;
    dispute.status = status;
    let object = dispute.render();
    state.emit("charge.dispute.closed", object, None);
    Ok(())
}

//! The API of refunds, and of the charges that they refund.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::objects::refund::Refund;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["charge", "payment_intent", "amount", "reason", "metadata"];

/// The texts of the refusals are not Stripe's, except the first words.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let of = params.filled("charge").or_else(|| params.filled("payment_intent"));
    let of = of.ok_or_else(|| {
        Failure::invalid("One of the following params should be provided for this request: payment_intent or charge.")
    })?;
    let (invoice, payment, charge) = state.charged_by(of).ok_or_else(|| Failure::no_such("charge", of))?;
    if state.dispute_of(&charge).is_some() {
        return Err(Failure::invalid("This charge is disputed and cannot be refunded.").code("charge_disputed"));
    }
    let left = invoice.amount_paid - state.refunds_of(&charge).map(|refund| refund.amount).sum::<i64>();
    let amount = params.int("amount").unwrap_or(left);
    if !(1..=left).contains(&amount) {
        let message = format!("Refund amount ({amount}) is greater than unrefunded amount on charge ({left})");
        return Err(Failure::invalid(message).param("amount"));
    }
    let mut refund = Refund {
        id: String::new(),
        charge: charge.clone(),
        payment_intent: payment.id.clone(),
        customer: invoice.customer.clone(),
        amount,
        currency: invoice.currency.clone(),
        reason: params.filled("reason").map(str::to_owned),
        metadata: Metadata::new(),
        created: call.now,
    };
    merge_metadata(&mut refund.metadata, params);
    refund.id = state.ids.next("re");
    let (id, object) = (refund.id.clone(), refund.render());
    state.refunds.insert(&id, refund);
    state.emit("refund.created", object.clone(), None);
    if let Some(charge) = state.render_charge(&charge) {
        state.emit("charge.refunded", charge, None);
    }
    Ok(object)
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let refund = state.refunds.get(call.id);
    refund
        .map(Refund::render)
        .ok_or_else(|| Failure::not_found("refund", call.id))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |refund: &Refund| {
        is(call.params, "charge", &refund.charge)
            && is(call.params, "payment_intent", &refund.payment_intent)
            && in_range(call.params, "created", refund.created)
    };
    let rows = state.refunds.iter().rev().filter(|(_, refund)| wanted(refund));
    let rows = rows.map(|(id, refund)| (id.to_owned(), refund.render())).collect();
    list::page("/v1/refunds", call.params, rows)
}

pub(crate) fn charge(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let charge = state.render_charge(call.id).filter(|charge| charge["id"] == call.id);
    charge.ok_or_else(|| Failure::not_found("charge", call.id))
}

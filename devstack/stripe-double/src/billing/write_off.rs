//! Writes invoices off: void, or uncollectible.

use crate::objects::balance_transaction::BalanceChange;
use crate::objects::invoice::Status;
use crate::objects::payment;
use crate::state::State;

/// Voids an open invoice and gives back the part of the customer's balance that it used.
pub(crate) fn void(state: &mut State, id: &str) {
    let now = state.now();
    let used = state
        .invoices
        .get(id)
        .and_then(|invoice| Some((invoice.customer.clone(), invoice.balances?)));
    if let Some((customer, (before, after))) = used {
        let change = BalanceChange::of_invoice("unapplied_from_invoice", before - after, id);
        state.change_balance(&customer, change);
    }
    state.change_invoice(id, |invoice| {
        (invoice.status, invoice.voided_at, invoice.next_attempt) = (Status::Void, Some(now), None);
    });
    state.change_payment(id, |payment| payment.status = payment::Status::Canceled);
    let object = state.render_invoice(id);
    state.emit("invoice.voided", object, None);
}

pub(crate) fn mark_uncollectible(state: &mut State, id: &str) {
    let now = state.now();
    state.change_invoice(id, |invoice| {
        (invoice.status, invoice.uncollectible_at) = (Status::Uncollectible, Some(now));
        invoice.next_attempt = None;
    });
    let object = state.render_invoice(id);
    state.emit("invoice.marked_uncollectible", object, None);
}

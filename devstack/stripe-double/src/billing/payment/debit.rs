//! Payments that do not end at once: bank debits, which a bank pays or returns days later, and cards that need 3-D Secure.

use crate::billing::payment::{self, Try};
use crate::objects::payment::{Refused, Status};
use crate::options::Card;
use crate::state::State;

/// Sends a debit to the customer's bank. Until it ends, the invoice stays open and is not charged again.
pub(crate) fn begin(state: &mut State, id: &str, card: Card) {
    let settles_at = state.now() + state.settings.bank_debit_settles_after_s;
    state.change_payment(id, |payment| {
        (payment.status, payment.settles_at, payment.refused) = (Status::Processing, Some(settles_at), None);
        payment.bounces = card == Card::BankDebitFails;
    });
    state.change_invoice(id, |invoice| invoice.next_attempt = None);
    state.emit_payment(id, "payment_intent.processing");
}

/// The bank pays the debit or returns it.
pub(crate) fn settle(state: &mut State, id: &str) {
    let payment = state.invoices.get(id).and_then(|invoice| invoice.payment.as_ref());
    if payment.is_some_and(|payment| payment.bounces) {
        payment::refused(state, id, Try::Automatic, Refused::BankDebit).unwrap_or_default(); // the failure has become state
    } else {
        payment::paid(state, id);
        state.emit_payment(id, "payment_intent.succeeded");
    }
}

/// The customer confirms the payment with their bank, or fails to.
pub(crate) fn confirm(state: &mut State, id: &str, succeeds: bool) {
    if succeeds {
        payment::paid(state, id);
        state.emit_payment(id, "payment_intent.succeeded");
    } else {
        state.change_payment(id, |payment| {
            (payment.status, payment.refused) = (Status::RequiresPaymentMethod, Some(Refused::Authentication));
        });
        state.emit_payment(id, "payment_intent.payment_failed");
        let object = state.render_invoice(id);
        state.emit("invoice.payment_failed", object, None);
    }
}

//! Makes invoices and issues them.

use crate::billing::payment::{self, Try};
use crate::failure::Failure;
use crate::objects::invoice::{Invoice, Line, Metered};
use crate::state::State;

/// When a new invoice is finalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finalize {
    /// Now, and it is paid with the customer's card if the card works.
    Now,
    /// Now, and it waits for a payment.
    NowUnpaid,
    /// After the draft hour.
    Later,
}

/// Creates an invoice with these lines, the usage and the pending items. `None` if it would be empty.
pub(crate) fn invoice(
    state: &mut State,
    subscription: &str,
    reason: &'static str,
    period: (i64, i64),
    lines: Vec<Line>,
    metered: Vec<Metered>,
) -> Option<String> {
    let of = state.subscriptions.get(subscription)?;
    let (customer, currency) = (of.customer.clone(), of.currency.clone());
    let pending = state.pending_items(&customer, Some(subscription), &currency);
    if lines.is_empty() && metered.is_empty() && pending.is_empty() {
        return None;
    }
    let mut invoice = Invoice::new(state, &customer, reason, period);
    (invoice.currency, invoice.subscription) = (currency, Some(subscription.to_owned()));
    (invoice.lines, invoice.metered) = (lines, metered);
    state.inherit_terms(&mut invoice);
    let id = invoice.id.clone();
    invoice.lines.extend(
        pending
            .iter()
            .filter_map(|item| state.put_item_on(item, &id))
            .collect::<Vec<_>>(),
    );
    // A discount for one invoice waits for one that charges something.
    let charges = invoice.amounts(state).iter().any(|amounts| amounts.line.amount > 0);
    state.invoices.insert(&id, invoice);
    if charges {
        state.use_up_discounts(subscription);
    }
    Some(id)
}

/// Emits a new invoice and finalizes it now or later. An error means that it was due now and was not paid.
pub(crate) fn issue(state: &mut State, id: &str, finalize: Finalize) -> Result<(), Failure> {
    if finalize == Finalize::Later {
        let at = state.now() + state.settings.draft_for_s;
        state.change_invoice(id, |invoice| invoice.finalizes_at = Some(at));
    }
    let object = state.render_invoice(id);
    state.emit("invoice.created", object, None);
    match finalize {
        Finalize::Later => Ok(()),
        Finalize::Now | Finalize::NowUnpaid => {
            payment::finalize(state, id);
            payment::settle(state, id, (finalize == Finalize::Now).then_some(Try::Automatic))
        }
    }
}

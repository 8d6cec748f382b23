//! Makes invoices and issues them.

use crate::billing::payment::{self, Try};
use crate::failure::Failure;
use crate::objects::invoice::{Invoice, Line, Metered};
use crate::state::State;

/// When a new invoice stops being a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finalize {
    /// And is paid with the customer's card, if that works.
    Now,
    /// And waits for somebody to pay it.
    NowUnpaid,
    /// After the draft hour.
    Later,
}

/// Makes an invoice with these lines, the usage and what is pending. `None` if there would be nothing on it.
pub(crate) fn invoice(
    state: &mut State,
    subscription: &str,
    reason: &'static str,
    period: (i64, i64),
    lines: Vec<Line>,
    metered: Vec<Metered>,
) -> Option<String> {
    let customer = state.subscriptions.get(subscription)?.customer.clone();
    let pending = state.pending_items(&customer, Some(subscription));
    if lines.is_empty() && metered.is_empty() && pending.is_empty() {
        return None;
    }
    let mut invoice = Invoice::new(state, &customer, reason, period);
    invoice.currency = state.subscriptions.get(subscription)?.currency.clone();
    invoice.subscription = Some(subscription.to_owned());
    (invoice.lines, invoice.metered) = (lines, metered);
    let id = invoice.id.clone();
    invoice.lines.extend(
        pending
            .iter()
            .filter_map(|item| state.put_item_on(item, &id))
            .collect::<Vec<_>>(),
    );
    state.invoices.insert(&id, invoice);
    Some(id)
}

/// Tells of a new invoice and finalizes it now or later. Ok: there is nothing that was not paid.
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

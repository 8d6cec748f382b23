//! The next invoice of a subscription, without making it.

use crate::billing::charges;
use crate::objects::invoice::{Invoice, Line};
use crate::objects::item::Item;
use crate::objects::subscription::Subscription;
use crate::state::State;

/// The invoice of the next renewal with these items, without the pending items.
pub(crate) fn renewal(state: &mut State, subscription: &Subscription, items: &[Item], lines: Vec<Line>) -> Invoice {
    let (start, end) = subscription.period();
    let mut invoice = empty(state, subscription, (start, end), "upcoming");
    invoice.lines = lines;
    let mut next = items.to_vec();
    Subscription::open_periods(state, &mut next, subscription.anchor, end);
    invoice.lines.extend(charges::charges(state, subscription, &next));
    invoice.metered = charges::usage(state, subscription, items, end);
    invoice
}

/// The invoice of the next renewal, or of the end of the subscription, which bills only usage.
pub(crate) fn renewal_or_end(state: &mut State, subscription: &Subscription) -> Invoice {
    let mut invoice = renewal(state, subscription, &subscription.items, Vec::new());
    if subscription
        .cancel_at
        .is_some_and(|at| Some(at) <= subscription.next_renewal())
    {
        invoice.lines.clear();
    }
    invoice
}

pub(crate) fn empty(
    state: &mut State,
    subscription: &Subscription,
    period: (i64, i64),
    reason: &'static str,
) -> Invoice {
    let mut invoice = Invoice::new(state, &subscription.customer, reason, period);
    invoice.id = format!("upcoming_{}", invoice.id);
    invoice.subscription = Some(subscription.id.clone());
    invoice.currency.clone_from(&subscription.currency);
    state.inherit_terms(&mut invoice);
    invoice.next_attempt = Some(period.1 + state.settings.draft_for_s);
    invoice
}

pub(crate) fn pending(state: &State, subscription: &Subscription) -> Vec<Line> {
    let pending = state.pending_items(&subscription.customer, Some(&subscription.id), &subscription.currency);
    pending
        .iter()
        .filter_map(|id| state.invoice_items.get(id))
        .map(|item| item.line.clone())
        .collect()
}

//! Cancels subscriptions, at once or at the end of the period, with their last invoice.

use crate::billing::charges::{self, Part};
use crate::billing::ending::{mark_canceled, stop_collecting};
use crate::billing::invoicing::{self, Finalize};
use crate::form::Param;
use crate::objects::subscription::{Cancellation, Status};
use crate::state::State;

/// The options of `DELETE /v1/subscriptions/<id>`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// Bill usage and pending items now. Without it, usage of the open period is lost.
    pub invoice_now: bool,
    /// Credit the rest of the period.
    pub prorate: bool,
}

/// Cancels immediately.
pub(crate) fn now(state: &mut State, id: &str, terms: Terms) {
    let at = state.now();
    let Some(subscription) = state.subscriptions.get(id).cloned() else {
        return;
    };
    let before = state.render_subscription(id);
    // A trial is free, and only a paid period is credited.
    let billed = matches!(subscription.status, Status::Active | Status::PastDue | Status::Unpaid);
    if terms.prorate && billed {
        let credits = subscription
            .items
            .iter()
            .filter_map(|item| charges::part(state, &subscription, item, at, Part::Credit));
        for line in credits.collect::<Vec<_>>() {
            state.add_invoice_item(&subscription.customer, &subscription.currency, line, at);
        }
    }
    let invoice = terms.invoice_now.then(|| {
        let items: &[_] = if billed { &subscription.items } else { &[] };
        // Include the current second: the span is half-open, and usage that was just sent must not be lost.
        let metered = charges::usage(state, &subscription, items, at + 1);
        let period = (subscription.period().0, at);
        invoicing::invoice(state, id, "subscription_update", period, Vec::new(), metered)
    });
    let invoice = invoice.flatten();
    mark_canceled(state, id, "cancellation_requested", invoice.as_deref());
    state.emit_subscription_event(id, "customer.subscription.deleted", &before);
    // If the last invoice is not paid, it stays open, and the subscription has ended anyway.
    if let Some(invoice) = invoice
        && invoicing::issue(state, &invoice, Finalize::Now).is_err()
    {
        state.change_invoice(&invoice, |invoice| invoice.next_attempt = None);
    }
    stop_collecting(state, id);
}

/// Cancels at the end of the period. The usage of the period is billed after the usual draft hour.
pub(crate) fn at_period_end(state: &mut State, id: &str) {
    let at = state.now();
    let Some(subscription) = state.subscriptions.get(id).cloned() else {
        return;
    };
    let before = state.render_subscription(id);
    let was_trial = subscription.status == Status::Trialing;
    let metered = if was_trial {
        Vec::new()
    } else {
        charges::usage(state, &subscription, &subscription.items, at)
    };
    let invoice = invoicing::invoice(
        state,
        id,
        "subscription_cycle",
        subscription.period(),
        Vec::new(),
        metered,
    );
    mark_canceled(state, id, "cancellation_requested", invoice.as_deref());
    state.emit_subscription_event(id, "customer.subscription.deleted", &before);
    if let Some(invoice) = invoice {
        invoicing::issue(state, &invoice, Finalize::Later).unwrap_or_default(); // a draft owes nothing yet
    }
    stop_collecting(state, id);
}

/// `cancellation_details` of a call.
pub(crate) fn details(cancellation: &mut Cancellation, params: &Param) {
    let text = |path: &str| {
        params
            .text(path)
            .map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()))
    };
    if let Some(comment) = text("cancellation_details.comment") {
        cancellation.comment = comment;
    }
    if let Some(feedback) = text("cancellation_details.feedback") {
        cancellation.feedback = feedback;
    }
}

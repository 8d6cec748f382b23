//! The end of subscriptions: at once, at the end of the period, or because nobody pays.

use super::billing::{self, Finalize, Part};
use super::form::Param;
use super::invoice;
use super::payment;
use super::state::State;
use super::subscription::{Cancellation, Status, Subscription};

/// How `DELETE /v1/subscriptions/<id>` ends it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// Bill usage and pending items now. Without it, usage of the open period is lost.
    pub invoice_now: bool,
    /// Credit the rest of the period.
    pub prorate: bool,
}

/// Cancels at once.
pub(super) fn now(state: &mut State, id: &str, terms: Terms) {
    let at = state.now();
    let Some(subscription) = state.subscriptions.get(id).cloned() else {
        return;
    };
    let before = state.render_subscription(id);
    // A trial is free, and what was never paid for is not credited.
    let billed = matches!(subscription.status, Status::Active | Status::PastDue | Status::Unpaid);
    if terms.prorate && billed {
        let credits = subscription
            .items
            .iter()
            .filter_map(|item| billing::part(state, &subscription, item, at, Part::Credit));
        for line in credits.collect::<Vec<_>>() {
            state.add_invoice_item(&subscription.customer, &subscription.currency, line, at);
        }
    }
    let invoice = terms.invoice_now.then(|| {
        let items: &[_] = if billed { &subscription.items } else { &[] };
        // The second under way counts: what a caller has just sent must not be lost to a half-open span.
        let metered = billing::usage(state, &subscription, items, at + 1);
        let period = (subscription.period().0, at);
        billing::invoice(state, id, "subscription_update", period, Vec::new(), metered)
    });
    let invoice = invoice.flatten();
    mark_canceled(state, id, "cancellation_requested", invoice.as_deref());
    state.tell_of_subscription(id, "customer.subscription.deleted", &before);
    // An unpaid last invoice stays open; the subscription has ended all the same.
    if let Some(invoice) = invoice
        && billing::issue(state, &invoice, Finalize::Now).is_err()
    {
        state.change_invoice(&invoice, |invoice| invoice.next_attempt = None);
    }
    stop_collecting(state, id);
}

/// At the end of the period: the usage of it is billed after the usual draft hour.
pub(super) fn at_period_end(state: &mut State, id: &str) {
    let at = state.now();
    let Some(subscription) = state.subscriptions.get(id).cloned() else {
        return;
    };
    let before = state.render_subscription(id);
    let was_trial = subscription.status == Status::Trialing;
    let metered = if was_trial {
        Vec::new()
    } else {
        billing::usage(state, &subscription, &subscription.items, at)
    };
    let invoice = billing::invoice(
        state,
        id,
        "subscription_cycle",
        subscription.period(),
        Vec::new(),
        metered,
    );
    mark_canceled(state, id, "cancellation_requested", invoice.as_deref());
    state.tell_of_subscription(id, "customer.subscription.deleted", &before);
    if let Some(invoice) = invoice {
        billing::issue(state, &invoice, Finalize::Later).unwrap_or_default(); // a draft owes nothing yet
    }
    stop_collecting(state, id);
}

/// Without any further invoice.
pub(super) fn end(state: &mut State, id: &str, reason: &'static str) {
    let before = state.render_subscription(id);
    mark_canceled(state, id, reason, None);
    state.tell_of_subscription(id, "customer.subscription.deleted", &before);
    stop_collecting(state, id);
}

/// The first invoice was not paid in time.
pub(super) fn expire(state: &mut State, id: &str) {
    let invoice = state
        .subscriptions
        .get(id)
        .and_then(|subscription| subscription.latest_invoice.clone());
    if let Some(invoice) = invoice {
        payment::void(state, &invoice);
    }
    let at = state.now();
    state.change_subscription(id, "customer.subscription.updated", |subscription| {
        (subscription.status, subscription.ended_at, subscription.expires_at) =
            (Status::IncompleteExpired, Some(at), None);
    });
}

/// Everything that a deleted customer is subscribed to.
pub(super) fn cancel_all_of(state: &mut State, customer: &str, _now: i64) {
    let theirs = |subscription: &Subscription| subscription.customer == customer && !subscription.status.has_ended();
    let subscriptions = state
        .subscriptions
        .iter()
        .filter(|(_, subscription)| theirs(subscription));
    for id in subscriptions.map(|(id, _)| id.to_owned()).collect::<Vec<_>>() {
        end(state, &id, "cancellation_requested");
    }
}

/// `cancellation_details` of a call.
pub(super) fn details(cancellation: &mut Cancellation, params: &Param) {
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

fn mark_canceled(state: &mut State, id: &str, reason: &'static str, invoice: Option<&str>) {
    let at = state.now();
    let Some(subscription) = state.subscriptions.get_mut(id) else {
        return;
    };
    subscription.status = Status::Canceled;
    subscription.ended_at = Some(at);
    subscription.canceled_at.get_or_insert(at);
    subscription.cancellation.reason.get_or_insert(reason);
    subscription.paused = None;
    if let Some(invoice) = invoice {
        subscription.latest_invoice = Some(invoice.to_owned());
    }
    let pending = subscription.pending_update.take();
    let schedule = subscription.schedule.clone();
    if let Some(pending) = pending {
        payment::void(state, &pending.invoice);
    }
    if let Some(schedule) = schedule {
        super::schedules::subscription_ended(state, &schedule);
    }
}

/// Stripe tries no card for a subscription that has ended. Drafts of it are finalized all the same.
fn stop_collecting(state: &mut State, id: &str) {
    let open = |invoice: &&mut invoice::Invoice| {
        invoice.subscription.as_deref() == Some(id) && invoice.status == invoice::Status::Open
    };
    for invoice in state.invoices.iter_mut().filter(open) {
        invoice.next_attempt = None;
    }
}

//! The end of a subscription, without a further invoice.

use crate::billing::{phases, write_off};
use crate::objects::invoice;
use crate::objects::subscription::{Status, Subscription};
use crate::state::State;

/// Ends a subscription without another invoice.
pub(crate) fn end(state: &mut State, id: &str, reason: &'static str) {
    let before = state.render_subscription(id);
    mark_canceled(state, id, reason, None);
    state.emit_subscription_event(id, "customer.subscription.deleted", &before);
    stop_collecting(state, id);
}

/// Expires a subscription whose first invoice was not paid in time.
pub(crate) fn expire(state: &mut State, id: &str) {
    let invoice = state
        .subscriptions
        .get(id)
        .and_then(|subscription| subscription.latest_invoice.clone());
    if let Some(invoice) = invoice {
        write_off::void(state, &invoice);
    }
    let at = state.now();
    state.change_subscription(id, "customer.subscription.updated", |subscription| {
        (subscription.status, subscription.ended_at, subscription.expires_at) =
            (Status::IncompleteExpired, Some(at), None);
    });
}

/// Cancels all subscriptions of a deleted customer.
pub(crate) fn cancel_all_of(state: &mut State, customer: &str, _now: i64) {
    let theirs = |subscription: &Subscription| subscription.customer == customer && !subscription.status.has_ended();
    let subscriptions = state
        .subscriptions
        .iter()
        .filter(|(_, subscription)| theirs(subscription));
    for id in subscriptions.map(|(id, _)| id.to_owned()).collect::<Vec<_>>() {
        end(state, &id, "cancellation_requested");
    }
}

pub(crate) fn mark_canceled(state: &mut State, id: &str, reason: &'static str, invoice: Option<&str>) {
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
        write_off::void(state, &pending.invoice);
    }
    if let Some(schedule) = schedule {
        phases::subscription_ended(state, &schedule);
    }
}

/// After the end of a subscription Stripe no longer charges the card for its open invoices. It still finalizes the drafts.
pub(crate) fn stop_collecting(state: &mut State, id: &str) {
    let open = |invoice: &&mut invoice::Invoice| {
        invoice.subscription.as_deref() == Some(id) && invoice.status == invoice::Status::Open
    };
    for invoice in state.invoices.iter_mut().filter(open) {
        invoice.next_attempt = None;
    }
}

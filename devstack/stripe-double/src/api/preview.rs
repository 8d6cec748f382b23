//! `POST /v1/invoices/create_preview`: shows the next invoice, or the invoice of a change, without creating it.

use serde_json::Value;

use crate::api::call::Call;
use crate::billing::change::{self, Change};
use crate::billing::payment_behavior::Behavior;
use crate::billing::upcoming::{empty, pending, renewal, renewal_or_end};
use crate::billing::{charges, items};
use crate::failure::Failure;
use crate::objects::prorate::Prorate;
use crate::objects::subscription::Subscription;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["customer", "subscription", "subscription_details", "preview_mode"];

const DETAILS: [&str; 6] = [
    "items",
    "proration_behavior",
    "proration_date",
    "billing_cycle_anchor",
    "trial_end",
    "cancel_at_period_end",
];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let none = Failure::none_upcoming;
    let subscription = match params.filled("subscription") {
        Some(id) => state
            .subscriptions
            .get(id)
            .ok_or_else(|| Failure::no_such("subscription", id).param("subscription"))?,
        None if params.has("subscription_details.items") => {
            return Err(Failure::gap("a preview of a subscription that does not exist yet"));
        }
        None => {
            let customer = params.filled("customer").unwrap_or_default();
            state.living_customer(customer)?;
            let theirs =
                |subscription: &&Subscription| subscription.customer == customer && subscription.status.renews();
            let mut all = state
                .subscriptions
                .iter()
                .map(|(_, subscription)| subscription)
                .filter(theirs);
            all.next().ok_or_else(none)?
        }
    };
    if params.text("preview_mode") == Some("recurring") {
        return Err(Failure::gap("preview_mode=recurring"));
    }
    let mut subscription = subscription.clone();
    let details = params.get("subscription_details").cloned().unwrap_or_default();
    if let Some(other) = details.names().into_iter().find(|name| !DETAILS.contains(name)) {
        return Err(Failure::gap(&format!("subscription_details[{other}]")));
    }
    if let Some(cancels) = details.flag("cancel_at_period_end") {
        subscription.cancel_at = subscription.last_period_end().filter(|_| cancels);
    }
    let given = details.list("items");
    let trial_end = match details.text("trial_end") {
        Some("now") => Some(call.now),
        _ => details.int("trial_end"),
    };
    let reset_anchor = details.text("billing_cycle_anchor") == Some("now");
    let invoice = if given.is_empty() && trial_end.is_none() && !reset_anchor {
        let (renewal, ends) = (subscription.next_renewal(), subscription.cancel_at);
        let metered = subscription.items.iter().any(|item| charges::is_metered(state, item));
        if !subscription.status.renews() || (ends.is_some() && ends <= renewal && !metered) {
            return Err(none());
        }
        renewal_or_end(state, &subscription)
    } else {
        let items = items::changed(state, &subscription.items, &given, &subscription.currency, call.now);
        let items = if given.is_empty() {
            subscription.items.clone()
        } else {
            items?
        };
        let change = Change {
            items,
            behavior: Behavior::Try,
            prorate: Prorate::of(details.text("proration_behavior")),
            at: details.int("proration_date").unwrap_or(call.now),
            reset_anchor,
            trial_end,
        };
        let plan = change::plan(state, &subscription, &change)?;
        if plan.immediate {
            let mut invoice = empty(
                state,
                &subscription,
                (subscription.period().0, call.now),
                "subscription_update",
            );
            invoice.lines = plan.lines;
            invoice
        } else {
            renewal(state, &subscription, &plan.items, plan.lines)
        }
    };
    let mut invoice = invoice;
    invoice.lines.extend(pending(state, &subscription));
    Ok(invoice.render(state))
}

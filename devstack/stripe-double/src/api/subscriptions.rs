//! The API of subscriptions.

use serde_json::Value;

use crate::api::call::Call;
use crate::api::subscription_params::{
    cancel_times, charge_automatically, supported_by_pending, trial_end, without_card,
};
use crate::api::tax;
use crate::billing::cancellation::{self, Terms};
use crate::billing::change::{self, Change};
use crate::billing::invoicing::{self, Finalize};
use crate::billing::pause::pause_for;
use crate::billing::payment_behavior::Behavior;
use crate::billing::start::{New, start};
use crate::billing::{charges, items, strict};
use crate::failure::Failure;
use crate::form::Param;
use crate::list::{self, in_range, is};
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::objects::prorate;
use crate::objects::subscription::{PauseCollection, Status, Subscription, WithoutCard};
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "customer",
    "items",
    "metadata",
    "description",
    "payment_behavior",
    "payment_settings",
    "trial_end",
    "trial_period_days",
    "trial_settings",
    "off_session",
    "cancel_at_period_end",
    "cancel_at",
    "proration_behavior",
    "collection_method",
    "billing_mode",
    "currency",
    "discounts",
    "automatic_tax",
];

pub(crate) const UPDATE_UNDERSTOOD: &[&str] = &[
    "items",
    "metadata",
    "description",
    "cancel_at_period_end",
    "cancel_at",
    "cancellation_details",
    "payment_behavior",
    "payment_settings",
    "proration_behavior",
    "proration_date",
    "billing_cycle_anchor",
    "trial_end",
    "trial_settings",
    "pause_collection",
    "off_session",
    "collection_method",
    "discounts",
    "automatic_tax",
    "default_payment_method",
];

pub(crate) const CANCEL_UNDERSTOOD: &[&str] = &["invoice_now", "prorate", "cancellation_details"];

pub(crate) const RESUME_UNDERSTOOD: &[&str] = &["billing_cycle_anchor", "proration_behavior", "payment_behavior"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let Some(customer) = params.filled("customer") else {
        return Err(Failure::invalid("Missing required param: customer.")
            .code("parameter_missing")
            .param("customer"));
    };
    state.living_customer(customer)?;
    charge_automatically(params)?;
    let behavior = Behavior::of(params);
    if behavior == Behavior::Postpone {
        let message = "`payment_behavior=pending_if_incomplete` can only be used when updating a subscription.";
        return Err(Failure::invalid(message).param("payment_behavior"));
    }
    let given = params.list("items");
    let first = given.first().and_then(|item| item.text("price"));
    let currency = state.new_currency(params.filled("currency"), Some(customer), first.unwrap_or_default());
    let items = items::changed(state, &[], &given, &currency, call.now)?;
    let automatic_tax = tax::automatic(state, params)? == Some(true);
    if automatic_tax {
        tax::check_location(state, customer)?;
    }
    let discounts = state.given_discounts(params, Some(customer), &currency)?;
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params);
    let new = New {
        customer: customer.to_owned(),
        items,
        currency,
        trial_end: trial_end(params, call.now)?,
        without_card: without_card(params).unwrap_or(WithoutCard::CreateInvoice),
        metadata,
        description: params.filled("description").map(str::to_owned),
        behavior,
        discounts,
        automatic_tax,
    };
    let id = start(state, new)?;
    let mut subscription = state.subscription(&id)?.clone();
    cancel_times(&mut subscription, params, call.now)?;
    state.change_subscription(&id, "customer.subscription.updated", |row| *row = subscription);
    Ok(state.render_subscription(&id))
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    Ok(state.subscription(call.id)?.render(state))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    if let Some(customer) = params.filled("customer") {
        state.known_customer(customer)?;
    }
    let status = params.text("status");
    let wanted = |subscription: &Subscription| {
        let (start, end) = subscription.period();
        let with_status = match status {
            None => subscription.status != Status::Canceled,
            Some("all") => true,
            Some("ended") => subscription.status.has_ended(),
            Some(status) => subscription.status.name() == status,
        };
        with_status
            && is(params, "customer", &subscription.customer)
            && (params.has("customer") || params.filled("test_clock") == state.test_clock_of(&subscription.customer))
            && in_range(params, "created", subscription.created)
            && in_range(params, "current_period_start", start)
            && in_range(params, "current_period_end", end)
            && params
                .text("price")
                .is_none_or(|price| subscription.items.iter().any(|item| item.price == price))
    };
    let rows = state
        .subscriptions
        .iter()
        .rev()
        .filter(|(_, subscription)| wanted(subscription));
    let rows = rows
        .map(|(id, subscription)| (id.to_owned(), subscription.render(state)))
        .collect();
    list::page("/v1/subscriptions", params, rows)
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let current = state.subscription(call.id)?.clone();
    if current.status.has_ended() {
        let allowed = ["metadata", "cancellation_details", "expand"];
        if params.names().iter().any(|name| !allowed.contains(name)) {
            let message = "A canceled subscription can only update its cancellation_details and metadata.";
            return Err(Failure::invalid(message));
        }
    }
    charge_automatically(params)?;
    let cancels = params.has("cancel_at") || params.has("cancel_at_period_end");
    if let Some(schedule) = current.schedule.as_ref().filter(|_| cancels) {
        let message = format!(
            "The subscription is managed by the subscription schedule `{schedule}`, and updating any cancelation behavior \
            directly is not allowed. Please update the schedule instead."
        );
        return Err(Failure::invalid(message));
    }
    let behavior = Behavior::of(params);
    if behavior == Behavior::Postpone {
        supported_by_pending(params)?;
        if let Some(card) = state.paying_card(&current).filter(|card| card.kind() != "card") {
            return Err(Failure::payment_method_unsupported(card.kind()));
        }
    }
    let mut next = current.clone();
    cancel_times(&mut next, params, call.now)?;
    cancellation::details(&mut next.cancellation, params);
    merge_metadata(&mut next.metadata, params);
    if let Some(text) = params.text("description") {
        next.description = Some(text.to_owned()).filter(|text| !text.is_empty());
    }
    next.without_card = without_card(params).unwrap_or(next.without_card);
    if let Some(method) = params.filled("default_payment_method") {
        state.living_customer(&current.customer)?.own(method)?;
        next.default_payment_method = Some(method.to_owned());
    }
    match params.get("pause_collection") {
        Some(pause @ Param::Map(_)) => {
            let (behavior, resumes_at) = (
                pause.text("behavior").unwrap_or_default().to_owned(),
                pause.int("resumes_at"),
            );
            next.pause_collection = Some(PauseCollection { behavior, resumes_at });
        }
        Some(Param::Text(_)) => next.pause_collection = None,
        None => {}
    }
    if let Some(automatic_tax) = tax::automatic(state, params)? {
        if automatic_tax {
            tax::check_location(state, &current.customer)?;
        }
        next.automatic_tax = automatic_tax;
    }
    let discounts = state.given_discounts(params, Some(&current.customer), &current.currency)?;
    let items = match params.list("items") {
        given if given.is_empty() => current.items.clone(),
        given => items::changed(state, &current.items, &given, &current.currency, call.now)?,
    };
    let change = Change {
        items,
        behavior,
        prorate: prorate::Prorate::of(params.text("proration_behavior")),
        at: params.int("proration_date").unwrap_or(call.now),
        reset_anchor: params.text("billing_cycle_anchor.type") == Some("now"),
        trial_end: match params.text("trial_end") {
            None => None,
            Some("now") => Some(call.now),
            Some(_) => params.int("trial_end"),
        },
    };
    strict::check_items(state, &current, &change.items, behavior, change.prorate);
    // They count for the invoice of this change, too.
    if params.has("discounts") {
        next.discounts = state.redeem(&discounts, &current.customer, &current.id);
        let given = next.discounts.clone();
        state.change_subscription(call.id, "customer.subscription.updated", |row| row.discounts = given);
    }
    change::apply(state, &current, next, change)?;
    retrieve(state, call)
}

pub(crate) fn cancel(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let subscription = state.subscription(call.id)?;
    if subscription.status.has_ended() {
        return Err(Failure::not_found("subscription", call.id));
    }
    let flag = |name: &str| call.params.flag(name).unwrap_or(false);
    let terms = Terms {
        invoice_now: flag("invoice_now"),
        prorate: flag("prorate"),
    };
    if let Some(subscription) = state.subscriptions.get_mut(call.id) {
        cancellation::details(&mut subscription.cancellation, call.params);
    }
    cancellation::now(state, call.id, terms);
    retrieve(state, call)
}

/// Pauses the subscription: until it is resumed, it does not renew and nothing is billed.
pub(crate) fn pause(state: &mut State, call: &Call) -> Result<Value, Failure> {
    if !matches!(state.subscription(call.id)?.status, Status::Active | Status::Trialing) {
        return Err(Failure::invalid("Only an active subscription can be paused."));
    }
    pause_for(state, call.id, "pause_requested");
    retrieve(state, call)
}

/// Resumes the subscription with a new period that begins now.
pub(crate) fn resume(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let subscription = state.subscription(call.id)?.clone();
    if subscription.status != Status::Paused {
        let message = "You cannot resume a subscription that is not paused.";
        return Err(Failure::invalid(message));
    }
    if call.params.text("billing_cycle_anchor.type") == Some("unchanged") {
        return Err(Failure::gap("resuming with billing_cycle_anchor[type]=unchanged"));
    }
    let mut items = subscription.items.clone();
    Subscription::open_periods(state, &mut items, call.now, call.now);
    let lines = charges::charges(state, &subscription, &items);
    let invoice = invoicing::invoice(
        state,
        call.id,
        "subscription_update",
        (call.now, call.now),
        lines,
        Vec::new(),
    );
    state.change_subscription(call.id, "customer.subscription.resumed", |subscription| {
        (subscription.items, subscription.anchor) = (items, call.now);
        (subscription.status, subscription.paused) = (Status::Active, None);
        subscription.latest_invoice = invoice.clone().or(subscription.latest_invoice.take());
    });
    if let Some(invoice) = invoice {
        invoicing::issue(state, &invoice, Finalize::Now).unwrap_or_default(); // if unpaid it is past due now, which shows
    }
    retrieve(state, call)
}

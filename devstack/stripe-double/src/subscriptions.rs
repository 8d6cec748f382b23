//! The subscriptions' API: making, changing, pausing and ending them.

use serde_json::Value;

use super::billing::{self, Finalize};
use super::cancellation::{self, Terms};
use super::change::{self, Change};
use super::failure::Failure;
use super::form::{Param, merge_metadata};
use super::items;
use super::payment::PATIENCE_S;
use super::routes::Call;
use super::state::{Metadata, State};
use super::subscription::{Cancellation, Item, PauseCollection, SetupIntent, Status, Subscription, WithoutCard};
use super::table::{self, in_range, is};

pub(super) const UNDERSTOOD: &[&str] = &[
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
];
pub(super) const UPDATE_UNDERSTOOD: &[&str] = &[
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
];
pub(super) const CANCEL_UNDERSTOOD: &[&str] = &["invoice_now", "prorate", "cancellation_details"];
pub(super) const RESUME_UNDERSTOOD: &[&str] = &["billing_cycle_anchor", "proration_behavior", "payment_behavior"];

/// What a new subscription shall be.
pub(super) struct New {
    pub customer: String,
    pub items: Vec<Item>,
    pub trial_end: Option<i64>,
    pub without_card: WithoutCard,
    pub metadata: Metadata,
    pub description: Option<String>,
    pub behavior: Behavior,
}

/// `payment_behavior`: what becomes of an invoice that cannot be paid at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behavior {
    /// `allow_incomplete`: the card is tried, the change stands either way.
    Try,
    /// `default_incomplete`: somebody has to pay the invoice.
    Wait,
    /// `error_if_incomplete`: nothing changes.
    Refuse,
    /// `pending_if_incomplete`: the change waits for the payment.
    Postpone,
}

pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
    let items = items::changed(state, &[], &params.list("items"), call.now)?;
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params);
    let new = New {
        customer: customer.to_owned(),
        items,
        trial_end: trial_end(params, call.now)?,
        without_card: without_card(params).unwrap_or(WithoutCard::CreateInvoice),
        metadata,
        description: params.filled("description").map(str::to_owned),
        behavior,
    };
    let id = start(state, new)?;
    let mut subscription = state.subscription(&id)?.clone();
    cancel_times(&mut subscription, params, call.now)?;
    state.change_subscription(&id, "customer.subscription.updated", |row| *row = subscription);
    Ok(state.render_subscription(&id))
}

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    Ok(state.subscription(call.id)?.render(state))
}

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
    table::page("/v1/subscriptions", params, rows)
}

pub(super) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
    }
    let mut next = current.clone();
    cancel_times(&mut next, params, call.now)?;
    cancellation::details(&mut next.cancellation, params);
    merge_metadata(&mut next.metadata, params);
    if let Some(text) = params.text("description") {
        next.description = Some(text.to_owned()).filter(|text| !text.is_empty());
    }
    next.without_card = without_card(params).unwrap_or(next.without_card);
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
    let items = match params.list("items") {
        given if given.is_empty() => current.items.clone(),
        given => items::changed(state, &current.items, &given, call.now)?,
    };
    let change = Change {
        items,
        behavior,
        prorate: change::Prorate::of(params.text("proration_behavior")),
        at: params.int("proration_date").unwrap_or(call.now),
        reset_anchor: params.text("billing_cycle_anchor.type") == Some("now"),
        trial_end: match params.text("trial_end") {
            None => None,
            Some("now") => Some(call.now),
            Some(_) => params.int("trial_end"),
        },
    };
    change::apply(state, &current, next, change)?;
    retrieve(state, call)
}

pub(super) fn cancel(state: &mut State, call: &Call) -> Result<Value, Failure> {
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

/// Stops it until it is resumed: nothing renews, nothing is billed.
pub(super) fn pause(state: &mut State, call: &Call) -> Result<Value, Failure> {
    if !matches!(state.subscription(call.id)?.status, Status::Active | Status::Trialing) {
        return Err(Failure::invalid("Only an active subscription can be paused."));
    }
    pause_for(state, call.id, "pause_requested");
    retrieve(state, call)
}

pub(super) fn pause_for(state: &mut State, id: &str, why: &'static str) {
    let now = state.now();
    state.change_subscription(id, "customer.subscription.paused", |subscription| {
        (subscription.status, subscription.paused) = (Status::Paused, Some((now, why)));
    });
}

/// A new period begins now, unless the anchor is to stay.
pub(super) fn resume(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
    let lines = billing::charges(state, &subscription, &items);
    let invoice = billing::invoice(
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
        billing::issue(state, &invoice, Finalize::Now).unwrap_or_default(); // if unpaid it is past due now, which shows
    }
    retrieve(state, call)
}

/// Starts a subscription, with its first invoice. `incomplete` until that is paid.
pub(super) fn start(state: &mut State, new: New) -> Result<String, Failure> {
    let (now, id) = (state.now(), state.ids.next("sub"));
    let trial_end = new.trial_end.filter(|end| *end > now);
    let currency = new
        .items
        .first()
        .and_then(|item| state.prices.get(&item.price))
        .map(|price| price.currency.clone());
    let mut subscription = Subscription {
        id: id.clone(),
        customer: new.customer,
        status: Status::Incomplete,
        items: new.items,
        anchor: trial_end.unwrap_or(now),
        created: now,
        currency: currency.unwrap_or_else(|| "usd".to_owned()),
        description: new.description,
        metadata: new.metadata,
        cancel_at: None,
        cancel_at_period_end: false,
        canceled_at: None,
        ended_at: None,
        cancellation: Cancellation::default(),
        trial_start: trial_end.map(|_| now),
        trial_end,
        without_card: new.without_card,
        latest_invoice: None,
        setup_intent: None,
        schedule: None,
        pending_update: None,
        pause_collection: None,
        paused: None,
        expires_at: None,
        told_of_trial_end: false,
        told_of_renewal: None,
    };
    match trial_end {
        Some(end) => subscription
            .items
            .iter_mut()
            .for_each(|item| (item.period_start, item.period_end) = (now, end)),
        None => Subscription::open_periods(state, &mut subscription.items, now, now),
    }
    let mut lines = billing::charges(state, &subscription, &subscription.items);
    if trial_end.is_some() {
        for line in &mut lines {
            (line.amount, line.unit) = (0, None);
            line.description = format!("Trial period for {}", line.description);
        }
    }
    let total = lines.iter().map(|line| line.amount).sum();
    let pays = billing::would_pay(state, &subscription.customer, total);
    let has_card = state
        .customers
        .get(&subscription.customer)
        .is_some_and(|customer| customer.card.is_some());
    match new.behavior {
        Behavior::Refuse if !pays => return Err(Failure::declined()),
        Behavior::Try if !pays && !has_card => {
            let message = "This customer has no attached payment source or default payment method. Please consider adding a \
                default payment method.";
            return Err(Failure::invalid(message).code("resource_missing"));
        }
        _ => {}
    }
    if trial_end.is_some() && !has_card && new.behavior == Behavior::Wait {
        let intent = state.ids.next("seti");
        let client_secret = format!("{intent}_secret_{}", state.ids.text(24));
        subscription.setup_intent = Some(SetupIntent {
            id: intent,
            client_secret,
        });
    }
    state.subscriptions.insert(&id, subscription);
    let invoice = billing::invoice(state, &id, "subscription_create", (now, now), lines, Vec::new());
    let due = invoice
        .as_deref()
        .and_then(|id| state.invoices.get(id))
        .map_or(0, |invoice| invoice.amount_due(state));
    if let Some(subscription) = state.subscriptions.get_mut(&id) {
        subscription.latest_invoice.clone_from(&invoice);
        match (due, trial_end) {
            (0, Some(_)) => subscription.status = Status::Trialing,
            (0, None) => subscription.status = Status::Active,
            _ => subscription.expires_at = Some(now + PATIENCE_S),
        }
    }
    let object = state.render_subscription(&id);
    state.emit("customer.subscription.created", object, None);
    if let Some(invoice) = invoice {
        let finalize = if new.behavior == Behavior::Wait {
            Finalize::NowUnpaid
        } else {
            Finalize::Now
        };
        billing::issue(state, &invoice, finalize).unwrap_or_default(); // incomplete, then: the answer shows it
    }
    Ok(id)
}

impl Behavior {
    pub fn of(params: &Param) -> Self {
        match params.text("payment_behavior") {
            Some("default_incomplete") => Self::Wait,
            Some("error_if_incomplete") => Self::Refuse,
            Some("pending_if_incomplete") => Self::Postpone,
            _ => Self::Try,
        }
    }
}

pub(super) fn trial_end(params: &Param, now: i64) -> Result<Option<i64>, Failure> {
    let end = match (params.text("trial_end"), params.int("trial_period_days")) {
        (Some(_), Some(_)) => {
            return Err(Failure::invalid(
                "You may only specify one of these parameters: trial_end, trial_period_days.",
            ));
        }
        (None, None) | (Some("now"), None) => return Ok(None),
        (None, Some(days)) => now.saturating_add(days.saturating_mul(86_400)),
        (Some(_), None) => params.int("trial_end").unwrap_or(now),
    };
    if end < now || end > now + 730 * 86_400 {
        return Err(Failure::invalid("Invalid timestamp: must be within the next two years.").param("trial_end"));
    }
    Ok(Some(end))
}

pub(super) fn without_card(params: &Param) -> Option<WithoutCard> {
    Some(
        match params.text("trial_settings.end_behavior.missing_payment_method")? {
            "cancel" => WithoutCard::Cancel,
            "pause" => WithoutCard::Pause,
            _ => WithoutCard::CreateInvoice,
        },
    )
}

fn charge_automatically(params: &Param) -> Result<(), Failure> {
    match params.text("collection_method") {
        Some("send_invoice") => Err(Failure::gap("collection_method=send_invoice")),
        _ => Ok(()),
    }
}

/// `cancel_at_period_end` and `cancel_at`.
fn cancel_times(subscription: &mut Subscription, params: &Param, now: i64) -> Result<(), Failure> {
    let at = match params.text("cancel_at") {
        None => None,
        Some("") => Some(None),
        Some("min_period_end") => Some(subscription.next_renewal()),
        Some("max_period_end" | "max_billed_until") => Some(subscription.last_period_end()),
        Some(_) => match params.int("cancel_at") {
            Some(at) if at > now => Some(Some(at)),
            _ => return Err(Failure::invalid("`cancel_at` must be a timestamp in the future.").param("cancel_at")),
        },
    };
    let at_period_end = params.flag("cancel_at_period_end");
    if at.flatten().is_some() && at_period_end == Some(true) {
        let message = "You may only specify one of these parameters: cancel_at, cancel_at_period_end.";
        return Err(Failure::invalid(message));
    }
    let at = match at_period_end {
        Some(true) => Some(subscription.last_period_end()),
        Some(false) if subscription.cancel_at_period_end && at.is_none() => Some(None),
        _ => at,
    };
    let Some(at) = at else { return Ok(()) };
    subscription.cancel_at = at;
    subscription.cancel_at_period_end = at_period_end == Some(true);
    subscription.canceled_at = at.map(|_| subscription.canceled_at.unwrap_or(now));
    subscription.cancellation.reason = at.map(|_| "cancellation_requested");
    Ok(())
}

/// The few parameters that `pending_if_incomplete` goes with.
fn supported_by_pending(params: &Param) -> Result<(), Failure> {
    const SUPPORTED: [&str; 9] = [
        "expand",
        "items",
        "payment_behavior",
        "proration_behavior",
        "proration_date",
        "billing_cycle_anchor",
        "trial_end",
        "off_session",
        "add_invoice_items",
    ];
    match params.names().into_iter().find(|name| !SUPPORTED.contains(name)) {
        Some(other) => {
            let message = format!(
                "When using `payment_behavior=pending_if_incomplete`, `{other}` cannot be updated. Update it in another call."
            );
            Err(Failure::invalid(message).param(other))
        }
        None => Ok(()),
    }
}

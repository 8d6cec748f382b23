//! Subscription schedules: what a subscription shall become, and when. A downgrade at the end of the period is a second phase.

use serde_json::Value;

use super::calendar::{self, Interval};
use super::cancellation::{self, Terms};
use super::change::{self, Change, Prorate};
use super::events;
use super::failure::Failure;
use super::form::{Param, merge_metadata};
use super::items;
use super::routes::Call;
use super::schedule::{Phase, PhaseItem, Schedule, Status};
use super::state::{Metadata, State};
use super::subscription::{Item, Subscription};
use super::subscriptions::Behavior;
use super::table::{self, in_range, is};

pub(super) const UNDERSTOOD: &[&str] = &["from_subscription", "metadata"];
pub(super) const UPDATE_UNDERSTOOD: &[&str] = &["phases", "end_behavior", "metadata", "proration_behavior"];

/// What the end of a phase has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    Next,
    Released,
    /// The subscription is to end.
    End,
}

pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let Some(subscription) = call.params.filled("from_subscription") else {
        return Err(Failure::gap("a schedule that starts a subscription of its own"));
    };
    let subscription = state
        .subscriptions
        .get(subscription)
        .filter(|subscription| !subscription.status.has_ended());
    let no_such = || {
        Failure::no_such(
            "subscription",
            call.params.text("from_subscription").unwrap_or_default(),
        )
    };
    let subscription = subscription
        .ok_or_else(|| no_such().param("from_subscription"))?
        .clone();
    if let Some(schedule) = &subscription.schedule {
        let message =
            format!("You cannot migrate a subscription that is already attached to a schedule: `{schedule}`.");
        return Err(Failure::invalid(message).param("from_subscription"));
    }
    let (start, end) = subscription.period();

    let phase = Phase {
        start,
        end,
        items: subscription.items.iter().map(phase_item).collect(),
        prorate: Prorate::Create,
        metadata: Metadata::new(),
    };
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, call.params);
    let id = state.ids.next("sub_sched");
    let schedule = Schedule {
        id: id.clone(),
        customer: subscription.customer.clone(),
        subscription: Some(subscription.id.clone()),
        status: Status::Active,
        phases: vec![phase],
        current: 0,
        cancels_at_end: subscription.cancel_at_period_end,
        metadata,
        created: call.now,
        canceled_at: None,
        completed_at: None,
        released: None,
    };
    let object = schedule.render();
    state.schedules.insert(&id, schedule);
    state.emit("subscription_schedule.created", object.clone(), None);
    state.change_subscription(&subscription.id, "customer.subscription.updated", |subscription| {
        subscription.schedule = Some(id);
    });
    Ok(object)
}

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    state.schedule(call.id).map(Schedule::render)
}

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |schedule: &Schedule| {
        is(call.params, "customer", &schedule.customer) && in_range(call.params, "created", schedule.created)
    };
    let rows = state.schedules.iter().rev().filter(|(_, schedule)| wanted(schedule));
    let rows = rows.map(|(id, schedule)| (id.to_owned(), schedule.render())).collect();
    table::page("/v1/subscription_schedules", call.params, rows)
}

pub(super) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let mut schedule = active(state, call.id)?;
    let before = schedule.render();
    match call.params.text("end_behavior") {
        Some("cancel") => schedule.cancels_at_end = true,
        Some("release") => schedule.cancels_at_end = false,
        Some(other) => return Err(Failure::gap(&format!("end_behavior={other}"))),
        None => {}
    }
    merge_metadata(&mut schedule.metadata, call.params);
    let given = call.params.list("phases");
    if !given.is_empty() {
        schedule.phases = phases(state, &schedule, &given)?;
        schedule.current = 0;
    }
    let after = schedule.render();
    state
        .schedules
        .get_mut(call.id)
        .into_iter()
        .for_each(|row| *row = schedule.clone());
    if let Some(previous) = events::changed(&before, &after) {
        state.emit("subscription_schedule.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

/// The subscription goes on as it is.
pub(super) fn release(state: &mut State, call: &Call) -> Result<Value, Failure> {
    active(state, call.id)?;
    released(state, call.id);
    retrieve(state, call)
}

/// Ends the subscription too, at once.
pub(super) fn cancel(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let schedule = active(state, call.id)?;
    let flag = |name: &str| call.params.flag(name).unwrap_or(true); // both are on by default here
    let terms = Terms {
        invoice_now: flag("invoice_now"),
        prorate: flag("prorate"),
    };
    if let Some(subscription) = schedule.subscription {
        cancellation::now(state, &subscription, terms); // which tells of the schedule, too
    }
    retrieve(state, call)
}

/// The present phase has ended: the next one begins, or the schedule ends.
pub(super) fn enter_next(state: &mut State, id: &str) -> Entered {
    let now = state.now();
    let Some(schedule) = state.schedules.get_mut(id) else {
        return Entered::Released;
    };
    if schedule.current + 1 < schedule.phases.len() {
        schedule.current += 1;
        let object = schedule.render();
        state.emit("subscription_schedule.updated", object, None);
        return Entered::Next;
    }
    if schedule.cancels_at_end {
        (schedule.status, schedule.completed_at) = (Status::Completed, Some(now));
        let object = schedule.render();
        state.emit("subscription_schedule.completed", object, None);
        return Entered::End;
    }
    released(state, id);
    Entered::Released
}

/// The items of the present phase; an item whose price stays keeps its id and its period.
pub(super) fn phase_items(state: &mut State, id: &str, subscription: &Subscription) -> Vec<Item> {
    let now = state.now();
    let Some(phase) = state
        .schedules
        .get(id)
        .and_then(|schedule| schedule.phases.get(schedule.current))
        .cloned()
    else {
        return subscription.items.clone();
    };
    let mut items = Vec::new();
    for wanted in phase.items {
        let kept = subscription.items.iter().find(|item| item.price == wanted.price);
        let (quantity, price) = (wanted.quantity, wanted.price);
        items.push(match kept {
            Some(item) => Item {
                quantity,
                ..item.clone()
            },
            None => Item {
                id: state.ids.next("si"),
                price,
                quantity,
                created: now,
                metadata: wanted.metadata,
                period_start: 0,
                period_end: 0,
                usage_from: now,
            },
        });
    }
    items
}

/// A phase begins in mid-period: the items change as by an update.
pub(super) fn change_now(state: &mut State, id: &str) {
    let Some(subscription) = state
        .schedules
        .get(id)
        .and_then(|schedule| schedule.subscription.clone())
    else {
        return;
    };
    match enter_next(state, id) {
        Entered::Released => {}
        Entered::End => cancellation::at_period_end(state, &subscription),
        Entered::Next => {
            let Some(current) = state.subscriptions.get(&subscription).cloned() else {
                return;
            };
            let prorate = state
                .schedules
                .get(id)
                .and_then(|schedule| schedule.phases.get(schedule.current));
            let prorate = prorate.map_or(Prorate::Create, |phase| phase.prorate);
            let items = phase_items(state, id, &current);
            let at = state.now();
            let behavior = Behavior::Try;
            let change = Change {
                items,
                behavior,
                prorate,
                at,
                reset_anchor: false,
                trial_end: None,
            };
            let next = current.clone();
            if let Err(failure) = change::apply(state, &current, next, change) {
                state.violation(format!(
                    "the double's own: a phase of {id} did not begin: {}",
                    failure.message()
                ));
            }
        }
    }
}

/// The present phase shows what the subscription has become by an update of its own.
pub(super) fn follow(state: &mut State, subscription: &Subscription) {
    let id = subscription.schedule.clone().unwrap_or_default();
    let Some(schedule) = state
        .schedules
        .get_mut(&id)
        .filter(|schedule| schedule.status == Status::Active)
    else {
        return;
    };
    let before = schedule.render();
    let present = schedule.current;
    if let Some(phase) = schedule.phases.get_mut(present) {
        phase.items = subscription.items.iter().map(phase_item).collect();
    }
    let after = schedule.render();
    if let Some(previous) = events::changed(&before, &after) {
        state.emit("subscription_schedule.updated", after, Some(previous));
    }
}

/// The subscription has ended by itself.
pub(super) fn subscription_ended(state: &mut State, id: &str) {
    let now = state.now();
    let Some(schedule) = state
        .schedules
        .get_mut(id)
        .filter(|schedule| schedule.status == Status::Active)
    else {
        return;
    };
    (schedule.status, schedule.canceled_at) = (Status::Canceled, Some(now));
    let object = schedule.render();
    state.emit("subscription_schedule.canceled", object, None);
}

fn phase_item(item: &Item) -> PhaseItem {
    PhaseItem {
        price: item.price.clone(),
        quantity: item.quantity,
        metadata: item.metadata.clone(),
    }
}

fn released(state: &mut State, id: &str) {
    let now = state.now();
    let Some(schedule) = state.schedules.get_mut(id) else {
        return;
    };
    let subscription = schedule.subscription.take().unwrap_or_default();
    (schedule.status, schedule.released) = (Status::Released, Some((now, subscription.clone())));
    let object = schedule.render();
    state.emit("subscription_schedule.released", object, None);
    state.change_subscription(&subscription, "customer.subscription.updated", |subscription| {
        subscription.schedule = None
    });
}

fn active(state: &State, id: &str) -> Result<Schedule, Failure> {
    let schedule = state.schedule(id)?;
    if schedule.status == Status::Active {
        return Ok(schedule.clone());
    }
    Err(Failure::invalid(
        "This subscription schedule is no longer active and cannot be changed.",
    ))
}

/// The phases of a call. The first must be the present one, as it is.
fn phases(state: &State, schedule: &Schedule, given: &[&Param]) -> Result<Vec<Phase>, Failure> {
    const UNDERSTOOD: [&str; 6] = [
        "items",
        "start_date",
        "end_date",
        "duration",
        "proration_behavior",
        "metadata",
    ];
    let present = schedule
        .phases
        .get(schedule.current)
        .ok_or_else(|| Failure::invalid("The schedule has no phase."))?;
    let (mut phases, mut from): (Vec<Phase>, i64) = (Vec::new(), present.start);
    for (n, params) in given.iter().enumerate() {
        let here = |name: &str| format!("phases[{n}][{name}]");
        if let Some(other) = params.names().into_iter().find(|name| !UNDERSTOOD.contains(name)) {
            return Err(Failure::gap(&here(other)));
        }
        match params.int("start_date") {
            None if n == 0 => {
                return Err(Failure::invalid("The first phase must have a `start_date`.").param(here("start_date")));
            }
            Some(start) if start != from && n == 0 => {
                let message = "You can not modify the start date of the current phase.";
                return Err(Failure::invalid(message).param(here("start_date")));
            }
            Some(start) if start != from => {
                let message = "A phase must start when the one before it ends.";
                return Err(Failure::invalid(message).param(here("start_date")));
            }
            _ => {}
        }
        let mut phase_items = Vec::new();
        for item in params.list("items") {
            if let Some(other) = item
                .names()
                .into_iter()
                .find(|name| !["price", "quantity", "metadata"].contains(name))
            {
                return Err(Failure::gap(&format!("phases[{n}][items][][{other}]")));
            }
            let price = items::recurring_price(state, item.text("price").unwrap_or_default());
            let price = price.map_err(|failure| failure.param(here("items")))?;
            let metered = state.prices.get(&price).is_some_and(|price| price.is_metered());
            let mut metadata = Metadata::new();
            merge_metadata(&mut metadata, item);
            let quantity = (!metered).then(|| item.int("quantity").unwrap_or(1));
            phase_items.push(PhaseItem {
                price,
                quantity,
                metadata,
            });
        }
        if phase_items.is_empty() {
            return Err(Failure::invalid("A phase must have at least one item.").param(here("items")));
        }
        let end = phase_end(state, params, &phase_items, from)?;
        if end <= from || (n == 0 && end < state.now()) {
            return Err(
                Failure::invalid("A phase must end after it starts, and the first not in the past.")
                    .param(here("end_date")),
            );
        }
        let prorate = Prorate::of(params.text("proration_behavior"));
        let mut metadata = Metadata::new();
        merge_metadata(&mut metadata, params);
        phases.push(Phase {
            start: from,
            end,
            items: phase_items,
            prorate,
            metadata,
        });
        from = end;
    }
    let prices = |phase: &Phase| {
        let mut prices: Vec<_> = phase
            .items
            .iter()
            .map(|item| (item.price.clone(), item.quantity))
            .collect();
        prices.sort_unstable();
        prices
    };
    if phases.first().map(prices) != Some(prices(present)) {
        return Err(Failure::gap("a change of the present phase's items"));
    }
    Ok(phases)
}

/// By date, by duration, or one interval of the first item.
fn phase_end(state: &State, params: &Param, items: &[PhaseItem], from: i64) -> Result<i64, Failure> {
    if let Some(end) = params.int("end_date") {
        return Ok(end);
    }
    if params.text("end_date") == Some("now") {
        return Ok(state.now());
    }
    if let Some(interval) = params.text("duration.interval").and_then(Interval::parse) {
        return Ok(calendar::nth(
            from,
            interval,
            params.int("duration.interval_count").unwrap_or(1),
            1,
        ));
    }
    let first = items
        .first()
        .and_then(|item| state.prices.get(&item.price))
        .and_then(|price| price.recurring.as_ref());
    let first = first.ok_or_else(|| Failure::invalid("A phase needs an `end_date` or a `duration`."))?;
    Ok(calendar::nth(from, first.interval, first.count, 1))
}

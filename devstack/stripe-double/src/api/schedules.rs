//! The API of subscription schedules. A downgrade at the end of the period is a second phase.

use serde_json::Value;

use crate::api::call::Call;
use crate::api::schedule_phases::phases;
use crate::billing::cancellation::{self, Terms};
use crate::billing::phases::{phase_item, released};
use crate::billing::strict;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::event;
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::objects::prorate::Prorate;
use crate::objects::schedule::{Phase, Schedule, Status};
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["from_subscription", "metadata"];

pub(crate) const UPDATE_UNDERSTOOD: &[&str] = &["phases", "end_behavior", "metadata", "proration_behavior"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
        currency: subscription.currency.clone(),
        prorate: Prorate::Create,
        metadata: Metadata::new(),
    };
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, call.params);
    let id = state.ids.next("sub_sched");
    let schedule = Schedule {
        id: id.clone(),
        customer: subscription.customer.clone(),
        test_clock: state.test_clock_of(&subscription.customer).map(str::to_owned),
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

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    state.schedule(call.id).map(Schedule::render)
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |schedule: &Schedule| {
        is(call.params, "customer", &schedule.customer) && in_range(call.params, "created", schedule.created)
    };
    let rows = state.schedules.iter().rev().filter(|(_, schedule)| wanted(schedule));
    let rows = rows.map(|(id, schedule)| (id.to_owned(), schedule.render())).collect();
    list::page("/v1/subscription_schedules", call.params, rows)
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
        strict::check_phases(state, call.id, &schedule.phases);
        schedule.current = 0;
    }
    let after = schedule.render();
    state
        .schedules
        .get_mut(call.id)
        .into_iter()
        .for_each(|row| *row = schedule.clone());
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("subscription_schedule.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

/// The subscription continues unchanged.
pub(crate) fn release(state: &mut State, call: &Call) -> Result<Value, Failure> {
    active(state, call.id)?;
    released(state, call.id);
    retrieve(state, call)
}

/// Also ends the subscription, immediately.
pub(crate) fn cancel(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let schedule = active(state, call.id)?;
    let flag = |name: &str| call.params.flag(name).unwrap_or(true); // both are on by default here
    let terms = Terms {
        invoice_now: flag("invoice_now"),
        prorate: flag("prorate"),
    };
    if let Some(subscription) = schedule.subscription {
        cancellation::now(state, &subscription, terms); // which also emits the schedule's event
    }
    retrieve(state, call)
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

//! Moves a subscription schedule from phase to phase.

use crate::objects::event;
use crate::objects::item::Item;
use crate::objects::schedule::{PhaseItem, Status};
use crate::objects::subscription::Subscription;
use crate::state::State;

/// What follows the end of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    Next,
    Released,
    /// The subscription must end.
    End,
}

/// Begins the next phase, or ends the schedule after its last one.
pub(crate) fn enter_next(state: &mut State, id: &str) -> Entered {
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

/// The items of the current phase. An item whose price does not change keeps its id and its period.
pub(crate) fn phase_items(state: &mut State, id: &str, subscription: &Subscription) -> Vec<Item> {
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

/// Copies the items of an updated subscription to the current phase of its schedule.
pub(crate) fn follow(state: &mut State, subscription: &Subscription) {
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
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("subscription_schedule.updated", after, Some(previous));
    }
}

/// Cancels the schedule of a subscription that has ended.
pub(crate) fn subscription_ended(state: &mut State, id: &str) {
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

pub(crate) fn phase_item(item: &Item) -> PhaseItem {
    PhaseItem {
        price: item.price.clone(),
        quantity: item.quantity,
        metadata: item.metadata.clone(),
    }
}

pub(crate) fn released(state: &mut State, id: &str) {
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

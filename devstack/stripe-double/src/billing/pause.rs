//! Pauses subscriptions.

use crate::objects::subscription::Status;
use crate::state::State;

pub(crate) fn pause_for(state: &mut State, id: &str, why: &'static str) {
    let now = state.now();
    state.change_subscription(id, "customer.subscription.paused", |subscription| {
        (subscription.status, subscription.paused) = (Status::Paused, Some((now, why)));
    });
}

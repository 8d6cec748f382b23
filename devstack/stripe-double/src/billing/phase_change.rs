//! Begins the next phase of a schedule in the middle of a period.

use crate::billing::cancellation;
use crate::billing::change::{self, Change};
use crate::billing::payment_behavior::Behavior;
use crate::billing::phases::{Entered, enter_next, phase_items};
use crate::objects::prorate::Prorate;
use crate::state::State;

/// Begins a phase in the middle of a period. The items change as with an update.
pub(crate) fn change_now(state: &mut State, id: &str) {
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
                    "mistake of the double: a phase of {id} did not begin: {}",
                    failure.message()
                ));
            }
        }
    }
}

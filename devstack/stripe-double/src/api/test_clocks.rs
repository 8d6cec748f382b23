//! The API of test clocks. At Stripe an advance takes a while; the double answers `advancing`, and the clock is ready.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::billing::{advance, ending};
use crate::calendar;
use crate::failure::Failure;
use crate::list;
use crate::objects::test_clock::TestClock;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["frozen_time", "name"];

/// Stripe's limit for one advance, in intervals of the shortest subscription.
const INTERVALS_MAX: i64 = 2;

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let id = state.ids.next("clock");
    let clock = TestClock {
        id: id.clone(),
        name: call.params.filled("name").map(str::to_owned),
        frozen_time: call.params.int("frozen_time").unwrap_or(call.now),
        created: call.now,
    };
    let object = clock.render(None);
    state.test_clocks.insert(&id, clock);
    state.emit("test_helpers.test_clock.created", object.clone(), None);
    Ok(object)
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    find(state, call.id).map(|clock| clock.render(None))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let rows = state.test_clocks.iter().rev();
    let rows = rows.map(|(id, clock)| (id.to_owned(), clock.render(None))).collect();
    list::page("/v1/test_helpers/test_clocks", call.params, rows)
}

pub(crate) fn advance(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let clock = find(state, call.id)?.clone();
    let to = call.params.int("frozen_time").unwrap_or(0);
    if to <= clock.frozen_time {
        let message = "The frozen time must be after the clock's current frozen time.";
        return Err(Failure::invalid(message).param("frozen_time"));
    }
    if furthest(state, &clock).is_some_and(|furthest| to > furthest) {
        let message = "Cannot advance the clock by more than two intervals of its shortest subscription.";
        return Err(Failure::invalid(message)
            .code("test_clock_advance_too_far")
            .param("frozen_time"));
    }
    let advancing = clock.render(Some(to));
    state.emit("test_helpers.test_clock.advancing", advancing.clone(), None);
    advance::test_clock_to(state, call.id, to);
    let ready = retrieve(state, call)?;
    state.emit("test_helpers.test_clock.ready", ready, None);
    Ok(advancing)
}

/// Also deletes its customers and cancels their subscriptions.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let object = retrieve(state, call)?;
    let theirs = state.customers.iter().map(|(_, customer)| customer);
    let theirs = theirs.filter(|customer| customer.test_clock.as_deref() == Some(call.id));
    for customer in theirs.map(|customer| customer.id.clone()).collect::<Vec<_>>() {
        ending::cancel_all_of(state, &customer, call.now);
        if let Some(customer) = state.customers.get_mut(&customer) {
            customer.deleted = true;
        }
    }
    state.test_clocks.remove(call.id);
    state.emit("test_helpers.test_clock.deleted", object, None);
    Ok(json!({ "id": call.id, "object": "test_helpers.test_clock", "deleted": true }))
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a TestClock, Failure> {
    let clock = state.test_clocks.get(id);
    clock.ok_or_else(|| Failure::not_found("test clock", id))
}

/// The furthest time to which a clock can go at once; none: it has no subscription.
fn furthest(state: &State, clock: &TestClock) -> Option<i64> {
    let theirs = state.subscriptions.iter().map(|(_, subscription)| subscription);
    let theirs =
        theirs.filter(|one| state.test_clock_of(&one.customer) == Some(clock.id.as_str()) && !one.status.has_ended());
    let recurring = theirs
        .flat_map(|subscription| &subscription.items)
        .filter_map(|item| state.prices.get(&item.price)?.recurring.as_ref());
    recurring
        .map(|one| calendar::nth(clock.frozen_time, one.interval, one.count, INTERVALS_MAX))
        .min()
}

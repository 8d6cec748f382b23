//! The API of meters.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list::{self, is};
use crate::objects::event;
use crate::objects::meter::{Formula, Meter};
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "event_name",
    "display_name",
    "default_aggregation",
    "customer_mapping",
    "value_settings",
];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let text = |path: &str| call.params.filled(path).unwrap_or_default().to_owned();
    let event_name = text("event_name");
    if event_name.is_empty() || event_name.len() > 100 {
        return Err(Failure::invalid("An event name has 1 to 100 characters.").param("event_name"));
    }
    if state.active_meter(&event_name).is_some() {
        let message = format!("An active meter already exists with event name {event_name}.");
        return Err(Failure::invalid(message).param("event_name"));
    }
    let formula = match call.params.text("default_aggregation.formula") {
        Some("count") => Formula::Count,
        Some("last") => return Err(Failure::gap("a meter with the formula `last`")),
        _ => Formula::Sum,
    };
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let id = state.ids.next("mtr_test");
    let meter = Meter {
        id: id.clone(),
        event_name,
        display_name: text("display_name"),
        formula,
        customer_key: or(text("customer_mapping.event_payload_key"), "stripe_customer_id"),
        value_key: or(text("value_settings.event_payload_key"), "value"),
        active: true,
        created: call.now,
        updated: call.now,
        deactivated_at: None,
    };
    let object = meter.render();
    state.meters.insert(&id, meter);
    state.emit("billing.meter.created", object.clone(), None);
    Ok(object)
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    state
        .meters
        .get(call.id)
        .map(Meter::render)
        .ok_or_else(|| Failure::not_found("meter", call.id))
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    change(state, call, "billing.meter.updated", |meter| {
        if let Some(name) = call.params.filled("display_name") {
            meter.display_name = name.to_owned();
        }
    })
}

pub(crate) fn deactivate(state: &mut State, call: &Call) -> Result<Value, Failure> {
    change(state, call, "billing.meter.deactivated", |meter| {
        (meter.active, meter.deactivated_at) = (false, Some(call.now));
    })
}

pub(crate) fn reactivate(state: &mut State, call: &Call) -> Result<Value, Failure> {
    change(state, call, "billing.meter.reactivated", |meter| {
        (meter.active, meter.deactivated_at) = (true, None);
    })
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let rows = state
        .meters
        .iter()
        .rev()
        .filter(|(_, meter)| is(call.params, "status", meter.status()));
    let rows = rows.map(|(id, meter)| (id.to_owned(), meter.render())).collect();
    list::page("/v1/billing/meters", call.params, rows)
}

fn change(state: &mut State, call: &Call, event: &str, change: impl FnOnce(&mut Meter)) -> Result<Value, Failure> {
    let meter = state
        .meters
        .get_mut(call.id)
        .ok_or_else(|| Failure::not_found("meter", call.id))?;
    let before = meter.render();
    change(meter);
    meter.updated = call.now;
    let after = meter.render();
    let previous = event::changed(&before, &after);
    state.emit(event, after.clone(), previous);
    Ok(after)
}

//! Meters: which events count for whom, and how much.

use serde_json::{Value, json};

use super::events;
use super::failure::Failure;
use super::routes::Call;
use super::state::State;
use super::table::{self, is};

#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub id: String,
    pub event_name: String,
    display_name: String,
    pub formula: Formula,
    pub customer_key: String,
    pub value_key: String,
    pub active: bool,
    created: i64,
    updated: i64,
    deactivated_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Formula {
    Sum,
    Count,
}

pub(super) const UNDERSTOOD: &[&str] = &[
    "event_name",
    "display_name",
    "default_aggregation",
    "customer_mapping",
    "value_settings",
];

pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
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

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    state
        .meters
        .get(call.id)
        .map(Meter::render)
        .ok_or_else(|| Failure::not_found("meter", call.id))
}

pub(super) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    change(state, call, "billing.meter.updated", |meter| {
        if let Some(name) = call.params.filled("display_name") {
            meter.display_name = name.to_owned();
        }
    })
}

pub(super) fn deactivate(state: &mut State, call: &Call) -> Result<Value, Failure> {
    change(state, call, "billing.meter.deactivated", |meter| {
        (meter.active, meter.deactivated_at) = (false, Some(call.now));
    })
}

pub(super) fn reactivate(state: &mut State, call: &Call) -> Result<Value, Failure> {
    change(state, call, "billing.meter.reactivated", |meter| {
        (meter.active, meter.deactivated_at) = (true, None);
    })
}

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let rows = state
        .meters
        .iter()
        .rev()
        .filter(|(_, meter)| is(call.params, "status", meter.status()));
    let rows = rows.map(|(id, meter)| (id.to_owned(), meter.render())).collect();
    table::page("/v1/billing/meters", call.params, rows)
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
    let previous = events::changed(&before, &after);
    state.emit(event, after.clone(), previous);
    Ok(after)
}

impl Meter {
    fn status(&self) -> &'static str {
        if self.active { "active" } else { "inactive" }
    }

    pub fn render(&self) -> Value {
        json!({
            "id": self.id, "object": "billing.meter", "created": self.created,
            "customer_mapping": { "event_payload_key": self.customer_key, "type": "by_id" },
            "default_aggregation": { "formula": if self.formula == Formula::Sum { "sum" } else { "count" } },
            "display_name": self.display_name, "event_name": self.event_name, "event_time_window": null,
            "livemode": false, "status": self.status(),
            "status_transitions": { "deactivated_at": self.deactivated_at }, "updated": self.updated,
            "value_settings": { "event_payload_key": self.value_key },
        })
    }
}

impl State {
    pub fn active_meter(&self, event_name: &str) -> Option<&Meter> {
        self.meters
            .iter()
            .map(|(_, meter)| meter)
            .find(|meter| meter.active && meter.event_name == event_name)
    }
}

//! The API of meter events, their adjustments and their summaries.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::failure::Failure;
use crate::form::Param;
use crate::list;
use crate::objects::meter::Formula;
use crate::objects::usage::Cancel;
use crate::state::State;

/// How far a timestamp may be in the past (35 days) or in the future (5 minutes).
const BACK_S: i64 = 35 * 86_400;

const AHEAD_S: i64 = 300;

const DIGITS_MAX: usize = 15;

const IDENTIFIER_MAX: usize = 100;

pub(crate) const UNDERSTOOD: &[&str] = &["event_name", "payload", "identifier", "timestamp"];

pub(crate) const ADJUSTMENT_UNDERSTOOD: &[&str] = &["event_name", "type", "cancel"];

/// (customer, event name) of a meter event. Stripe accepts one call at a time for each pair.
pub(crate) fn counted(state: &State, params: &Param) -> Option<(String, String)> {
    let event_name = params.text("event_name")?;
    let meter = state.active_meter(event_name)?;
    let customer = params.get("payload")?.get(&meter.customer_key)?;
    match customer {
        Param::Text(customer) => Some((customer.clone(), event_name.to_owned())),
        Param::Map(_) => None,
    }
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let event_name = params.text("event_name").unwrap_or_default();
    let Some(meter) = state.active_meter(event_name) else {
        let message = format!("No active meter found for event name {event_name}.");
        return Err(Failure::invalid(message).param("event_name"));
    };
    let entry = |key: &str| match params.get("payload").and_then(|payload| payload.get(key)) {
        Some(Param::Text(text)) if !text.is_empty() => Ok(text.clone()),
        _ => Err(Failure::invalid(format!("Missing the key {key} in the payload.")).param("payload")),
    };
    let customer = entry(&meter.customer_key)?;
    let units = match meter.formula {
        Formula::Count => 1,
        Formula::Sum => units(&entry(&meter.value_key)?)?,
    };
    let meter_id = meter.id.clone();
    let timestamp = params.int("timestamp").unwrap_or(call.now);
    if timestamp < call.now - BACK_S {
        let message = "The timestamp must be within the past 35 calendar days.";
        return Err(Failure::invalid(message)
            .code("timestamp_too_far_in_past")
            .param("timestamp"));
    }
    if timestamp > call.now + AHEAD_S {
        let message = "The timestamp must not be more than 5 minutes in the future.";
        return Err(Failure::invalid(message).code("timestamp_in_future").param("timestamp"));
    }
    let identifier = match params.filled("identifier") {
        Some(identifier) if identifier.chars().count() > IDENTIFIER_MAX => {
            return Err(Failure::invalid("An identifier has at most 100 characters.").param("identifier"));
        }
        Some(identifier) => identifier.to_owned(),
        None => state.ids.next("mev"),
    };
    let known = state.customers.get(&customer).is_some_and(|customer| !customer.deleted);
    let counted = (customer.clone(), event_name.to_owned());
    let units = if known { units } else { 0 };
    if !state
        .usage
        .record(call.now, state.settings.lag(), &identifier, counted, timestamp, units)
    {
        // Stripe sends no code and does not want a retry, so a client must recognize the message.
        let mut failure = Failure::invalid(format!("An event already exists with identifier {identifier}."));
        failure.should_retry = Some(false);
        return Err(failure);
    }
    if !known {
        // The event is accepted anyway. A later event reports that no customer has it.
        state.report_meter_error(&meter_id, "meter_event_customer_not_found", &identifier);
    }
    Ok(json!({
        "object": "billing.meter_event", "created": call.now, "event_name": event_name, "identifier": identifier,
        "livemode": false, "payload": params.get("payload").map(Param::to_json), "timestamp": timestamp,
    }))
}

pub(crate) fn adjust(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let event_name = call.params.text("event_name").unwrap_or_default();
    let Some(identifier) = call.params.filled("cancel.identifier") else {
        let failure = Failure::invalid("Missing required param: cancel[identifier].").code("parameter_missing");
        return Err(failure.param("cancel[identifier]"));
    };
    match state
        .usage
        .cancel(call.now, state.settings.lag(), event_name, identifier)
    {
        Cancel::Done => Ok(json!({
            "object": "billing.meter_event_adjustment", "cancel": { "identifier": identifier }, "event_name": event_name,
            "livemode": false, "status": "pending", "type": "cancel",
        })),
        Cancel::Unknown => {
            let message = format!("No event of the last 24 hours exists with identifier {identifier}.");
            Err(Failure::invalid(message)
                .code("resource_missing")
                .param("cancel[identifier]"))
        }
        Cancel::Again => {
            let message = format!("The event with identifier {identifier} was already canceled.");
            Err(Failure::invalid(message).param("cancel[identifier]"))
        }
    }
}

/// One summary of the whole time span, or one for each hour or UTC day with usage.
pub(crate) fn summaries(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let meter = state
        .meters
        .get(call.id)
        .ok_or_else(|| Failure::not_found("meter", call.id))?;
    let (params, meter_id) = (call.params, meter.id.clone());
    let customer = params.text("customer").unwrap_or_default().to_owned();
    let counted = (customer.clone(), meter.event_name.clone());
    state.living_customer(&customer)?;
    let (from, to) = (
        params.int("start_time").unwrap_or(0),
        params.int("end_time").unwrap_or(0),
    );
    let window = match params.text("value_grouping_window") {
        Some("hour") => 3_600,
        Some("day") => 86_400,
        _ => 0,
    };
    for (name, at) in [("start_time", from), ("end_time", to)] {
        if at % window.max(60) != 0 {
            let unit = params.text("value_grouping_window").unwrap_or("minute");
            return Err(Failure::invalid(format!("{name} must be aligned with {unit} boundaries.")).param(name));
        }
    }
    if from >= to {
        return Err(Failure::invalid("start_time must be before end_time.").param("start_time"));
    }
    let mut rows = Vec::new();
    let (mut start, step) = (from, if window == 0 { to - from } else { window });
    if (to - from) / step > 10_000 {
        return Err(Failure::invalid("The span has more than 10,000 windows.").param("value_grouping_window"));
    }
    while start < to {
        let end = start + step;
        if let Some(units) = state.usage.summary(call.now, &counted, start, end) {
            let id = format!("mtrusg_{customer}_{start}_{end}");
            let row = json!({ "id": id, "object": "billing.meter_event_summary", "aggregated_value": units, "end_time": end,
                "livemode": false, "meter": meter_id, "start_time": start });
            rows.push((id, row));
        }
        start = end;
    }
    rows.reverse();
    list::page(&format!("/v1/billing/meters/{meter_id}/event_summaries"), params, rows)
}

/// A whole number of at most 15 digits. A negative one reduces the sum.
fn units(text: &str) -> Result<i64, Failure> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = !digits.is_empty() && digits.len() <= DIGITS_MAX && digits.bytes().all(|b| b.is_ascii_digit());
    let units = text.parse().ok().filter(|_| whole);
    units.ok_or_else(|| Failure::invalid(format!("Invalid value {text}: a whole number is needed.")).param("payload"))
}

//! The API of events.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::event::{Content, Event};
use crate::spec::API_VERSION;
use crate::state::State;

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let event = state.events.get(call.id).filter(|event| !event.is_thin());
    event
        .map(|event| event.render(API_VERSION))
        .ok_or_else(|| Failure::not_found("event", call.id))
}

/// `GET /v2/core/events/<id>`: a thin event with its data.
pub(crate) fn retrieve_thin(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let event = state
        .events
        .get(call.id)
        .ok_or_else(|| Failure::not_found("event", call.id))?;
    let mut body = event.render(API_VERSION);
    if let Content::Thin { data, .. } = &event.content {
        body["data"] = data.clone();
    }
    Ok(body)
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let types = params.texts("types");
    if !types.is_empty() && params.has("type") {
        return Err(Failure::invalid(
            "You may only specify one of these parameters: type, types.",
        ));
    }
    let fits = |pattern: &str, kind: &str| match pattern.strip_suffix('*') {
        Some(start) => kind.starts_with(start),
        None => kind == pattern,
    };
    let wanted = |event: &Event| {
        !event.is_thin()
            && in_range(params, "created", event.created)
            && params.text("type").is_none_or(|pattern| fits(pattern, &event.kind))
            && (types.is_empty() || types.iter().any(|pattern| fits(pattern, &event.kind)))
            && is(params, "delivery_success", &event.pending.is_empty().to_string())
    };
    let rows = state.events.iter().rev().filter(|(_, event)| wanted(event)).collect();
    // There are many events, but a page shows few: render only those.
    list::page_of("/v1/events", params, rows, |event| event.render(API_VERSION))
}

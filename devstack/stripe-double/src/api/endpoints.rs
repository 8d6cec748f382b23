//! The API of webhook endpoints.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list;
use crate::objects::endpoint::{Endpoint, check_url};
use crate::objects::metadata::merge_metadata;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["url", "enabled_events", "api_version", "description", "metadata"];

pub(crate) const UPDATE_UNDERSTOOD: &[&str] = &["url", "enabled_events", "description", "disabled", "metadata"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let secret = format!("whsec_{}", state.ids.text(32));
    let endpoint = state.add_endpoint(params.text("url").unwrap_or_default(), secret.clone(), call.now)?;
    let endpoint = state.endpoints.get_mut(&endpoint).ok_or_else(Failure::server_error)?;
    endpoint.enabled_events = params.texts("enabled_events").into_iter().map(str::to_owned).collect();
    endpoint.api_version = params.filled("api_version").map(str::to_owned);
    endpoint.description = params.filled("description").map(str::to_owned);
    merge_metadata(&mut endpoint.metadata, params);
    let mut object = endpoint.render();
    object["secret"] = secret.into(); // shown this once
    Ok(object)
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let endpoint = state.endpoints.get(call.id).filter(|endpoint| !endpoint.deleted);
    endpoint
        .map(Endpoint::render)
        .ok_or_else(|| Failure::not_found("webhook endpoint", call.id))
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let endpoint = state.endpoints.get_mut(call.id).filter(|endpoint| !endpoint.deleted);
    let endpoint = endpoint.ok_or_else(|| Failure::not_found("webhook endpoint", call.id))?;
    if let Some(url) = call.params.filled("url") {
        endpoint.url = check_url(url)?;
    }
    if call.params.has("enabled_events") {
        endpoint.enabled_events = call
            .params
            .texts("enabled_events")
            .into_iter()
            .map(str::to_owned)
            .collect();
    }
    if let Some(text) = call.params.text("description") {
        endpoint.description = Some(text.to_owned()).filter(|text| !text.is_empty());
    }
    endpoint.disabled = call.params.flag("disabled").unwrap_or(endpoint.disabled);
    merge_metadata(&mut endpoint.metadata, call.params);
    Ok(endpoint.render())
}

pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    retrieve(state, call)?;
    if let Some(endpoint) = state.endpoints.get_mut(call.id) {
        endpoint.deleted = true;
    }
    Ok(json!({ "id": call.id, "object": "webhook_endpoint", "deleted": true }))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let rows = state.endpoints.iter().rev().filter(|(_, endpoint)| !endpoint.deleted);
    let rows = rows.map(|(id, endpoint)| (id.to_owned(), endpoint.render())).collect();
    list::page("/v1/webhook_endpoints", call.params, rows)
}

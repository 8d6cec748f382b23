//! Webhook endpoints: which events go where, in which version's shape, signed with what.

use serde_json::{Value, json};

use super::failure::Failure;
use super::form::merge_metadata;
use super::routes::Call;
use super::schema::API_VERSION;
use super::state::{Metadata, State};
use super::table;

/// Stripe's own limit per account.
const ENDPOINTS_MAX: usize = 16;

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub id: String,
    pub url: String,
    /// The newest first; an older one is valid until the Unix second beside it.
    secrets: Vec<(String, Option<i64>)>,
    pub enabled_events: Vec<String>,
    /// None: the account's own version.
    pub api_version: Option<String>,
    description: Option<String>,
    metadata: Metadata,
    created: i64,
    disabled: bool,
    deleted: bool,
}

pub(super) const UNDERSTOOD: &[&str] = &["url", "enabled_events", "api_version", "description", "metadata"];
pub(super) const UPDATE_UNDERSTOOD: &[&str] = &["url", "enabled_events", "description", "disabled", "metadata"];

pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
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

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let endpoint = state.endpoints.get(call.id).filter(|endpoint| !endpoint.deleted);
    endpoint
        .map(Endpoint::render)
        .ok_or_else(|| Failure::not_found("webhook endpoint", call.id))
}

pub(super) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
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

pub(super) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    retrieve(state, call)?;
    if let Some(endpoint) = state.endpoints.get_mut(call.id) {
        endpoint.deleted = true;
    }
    Ok(json!({ "id": call.id, "object": "webhook_endpoint", "deleted": true }))
}

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let rows = state.endpoints.iter().rev().filter(|(_, endpoint)| !endpoint.deleted);
    let rows = rows.map(|(id, endpoint)| (id.to_owned(), endpoint.render())).collect();
    table::page("/v1/webhook_endpoints", call.params, rows)
}

impl Endpoint {
    pub fn wants(&self, event: &str) -> bool {
        !self.disabled
            && !self.deleted
            && self
                .enabled_events
                .iter()
                .any(|enabled| enabled == "*" || enabled == event)
    }

    pub fn is_gone(&self) -> bool {
        self.disabled || self.deleted
    }

    /// The secrets to sign with at `now`.
    pub fn secrets(&self, now: i64) -> impl Iterator<Item = &str> {
        let valid = move |(_, until): &&(String, Option<i64>)| until.is_none_or(|until| now < until);
        self.secrets.iter().filter(valid).map(|(secret, _)| secret.as_str())
    }

    /// The secrets so far stay valid until `until`.
    pub fn roll_secret(&mut self, secret: String, until: i64) {
        for (_, valid_until) in &mut self.secrets {
            *valid_until = Some(valid_until.map_or(until, |at| at.min(until)));
        }
        self.secrets.insert(0, (secret, None));
    }

    fn render(&self) -> Value {
        json!({
            "id": self.id, "object": "webhook_endpoint", "api_version": self.api_version, "application": null,
            "created": self.created, "description": self.description, "enabled_events": self.enabled_events,
            "livemode": false, "metadata": self.metadata, "status": if self.disabled { "disabled" } else { "enabled" },
            "url": self.url,
        })
    }
}

impl State {
    /// An endpoint for all events in the double's own version.
    pub fn add_endpoint(&mut self, url: &str, secret: String, now: i64) -> Result<String, Failure> {
        if self.endpoints.iter().filter(|(_, endpoint)| !endpoint.deleted).count() >= ENDPOINTS_MAX {
            return Err(Failure::invalid(
                "You have reached the maximum of 16 webhook endpoints.",
            ));
        }
        let (url, id) = (check_url(url)?, self.ids.next("we"));
        let endpoint = Endpoint {
            id: id.clone(),
            url,
            secrets: vec![(secret, None)],
            enabled_events: vec!["*".to_owned()],
            api_version: Some(API_VERSION.to_owned()),
            description: None,
            metadata: Metadata::new(),
            created: now,
            disabled: false,
            deleted: false,
        };
        self.endpoints.insert(&id, endpoint);
        Ok(id)
    }
}

fn check_url(url: &str) -> Result<String, Failure> {
    // Stripe wants https and a public name in live mode; a double is for this machine.
    if url
        .parse::<http::Uri>()
        .is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some())
    {
        Ok(url.to_owned())
    } else {
        Err(Failure::invalid(format!("Invalid URL: {url}"))
            .code("url_invalid")
            .param("url"))
    }
}

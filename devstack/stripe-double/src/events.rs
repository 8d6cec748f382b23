//! Events: what happened, with the object as it was then, in the order in which it happened.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::failure::Failure;
use super::older;
use super::routes::Call;
use super::schema::{API_VERSION, schema};
use super::state::State;
use super::table::{self, in_range, is};

/// Stripe lists 30 days of them; the double as many as this.
const EVENTS_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub(super) struct Event {
    pub id: String,
    pub kind: String,
    pub created: i64,
    content: Content,
    /// The id of the call that caused it and its idempotency key.
    cause: Option<(String, Option<String>)>,
    /// Endpoints that have not answered 2xx yet.
    pub pending: BTreeSet<String>,
    /// An attempt has failed and none has succeeded since.
    pub failing: BTreeSet<String>,
}

#[derive(Clone, Debug)]
enum Content {
    Snapshot {
        object: Value,
        previous: Option<Value>,
    },
    /// Of the second API: names its object instead of showing it. `data` is for who asks for the event.
    Thin {
        related: Value,
        data: Value,
    },
}

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let event = state.events.get(call.id).filter(|event| !event.is_thin());
    event
        .map(|event| event.render(API_VERSION))
        .ok_or_else(|| Failure::not_found("event", call.id))
}

/// `GET /v2/core/events/<id>`: a thin event with its data.
pub(super) fn retrieve_thin(state: &mut State, call: &Call) -> Result<Value, Failure> {
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

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
    // There are many, and a page shows few of them.
    table::page_of("/v1/events", params, rows, |event| event.render(API_VERSION))
}

/// The former values of what differs, on the top level; `None`: nothing differs.
pub(super) fn changed(before: &Value, after: &Value) -> Option<Value> {
    let (before, after) = (before.as_object()?, after.as_object()?);
    let differing = before.iter().filter(|(name, value)| after.get(*name) != Some(value));
    let mut previous: Map<_, _> = differing.map(|(name, value)| (name.clone(), value.clone())).collect();
    previous.extend(
        after
            .keys()
            .filter(|name| !before.contains_key(*name))
            .map(|name| (name.clone(), Value::Null)),
    );
    (!previous.is_empty()).then_some(Value::Object(previous))
}

impl Event {
    pub fn is_thin(&self) -> bool {
        matches!(self.content, Content::Thin { .. })
    }

    /// As an endpoint of this API version receives it.
    pub fn render(&self, api_version: &str) -> Value {
        match &self.content {
            Content::Snapshot { object, previous } => {
                let shape = |object: &Value| older::shape(object, api_version);
                let mut data = json!({ "object": shape(object) });
                if let Some(previous) = previous {
                    data["previous_attributes"] = previous.clone();
                }
                let (request, key) = self.cause.clone().unzip();
                json!({
                    "id": self.id, "object": "event", "api_version": api_version, "created": self.created, "data": data,
                    "livemode": false, "pending_webhooks": self.pending.len(),
                    "request": { "id": request, "idempotency_key": key.flatten() }, "type": self.kind,
                })
            }
            Content::Thin { related, .. } => {
                let created = OffsetDateTime::from_unix_timestamp(self.created).ok();
                let created = created.and_then(|at| at.format(&Rfc3339).ok());
                json!({
                    "id": self.id, "object": "v2.core.event", "type": self.kind, "created": created, "livemode": false,
                    "reason": null, "context": null, "related_object": related,
                })
            }
        }
    }
}

impl State {
    /// Records an event and puts it into the outbox of every endpoint that wants it.
    pub fn emit(&mut self, kind: &str, object: Value, previous: Option<Value>) -> String {
        self.check_own(&object, kind);
        if !schema().knows_event(kind) {
            self.violation(format!("the double's own: the schema knows no event {kind}"));
        }
        self.emit_any(kind, Content::Snapshot { object, previous })
    }

    /// An event of a type that the schema does not know.
    pub fn emit_unknown(&mut self, kind: &str, object: Value) -> String {
        self.emit_any(kind, Content::Snapshot { object, previous: None })
    }

    /// That a meter could not count an event, in the thin form.
    pub fn report_meter_error(&mut self, meter: &str, code: &str, identifier: &str) -> String {
        let related = json!({ "id": meter, "type": "billing.meter", "url": format!("/v1/billing/meters/{meter}") });
        let sample = json!({ "error_message": code, "request": { "identifier": identifier } });
        let types = json!([{ "code": code, "error_count": 1, "sample_errors": [sample] }]);
        let data = json!({ "developer_message_summary": "There is 1 invalid event", "validation_start": self.now(),
            "validation_end": self.now(), "reason": { "error_count": 1, "error_types": types } });
        self.emit_any(
            "v1.billing.meter.error_report_triggered",
            Content::Thin { related, data },
        )
    }

    fn emit_any(&mut self, kind: &str, content: Content) -> String {
        let id = self.ids.next("evt");
        let wanting = self.endpoints.iter().filter(|(_, endpoint)| endpoint.wants(kind));
        let pending: BTreeSet<_> = wanting.map(|(id, _)| id.to_owned()).collect();
        for endpoint in &pending {
            self.outbox.put(&id, endpoint);
        }
        let event = Event {
            id: id.clone(),
            kind: kind.to_owned(),
            created: self.now(),
            content,
            cause: self.cause.clone(),
            pending,
            failing: BTreeSet::new(),
        };
        self.events.insert(&id, event);
        self.events.trim(EVENTS_MAX);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_a_previous_attribute() {
        let before = json!({ "status": "active", "items": [1], "same": 1 });
        assert_eq!(changed(&before, &before), None);
        let after = json!({ "status": "past_due", "items": [1], "same": 1, "new": 2 });
        assert_eq!(
            changed(&before, &after),
            Some(json!({ "status": "active", "new": null }))
        );
    }
}

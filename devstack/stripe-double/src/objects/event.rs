//! An event: what happened, with the object as it was at that moment.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::objects::older;

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub id: String,
    pub kind: String,
    pub created: i64,
    pub content: Content,
    /// The id of the call that caused it and its idempotency key.
    pub cause: Option<(String, Option<String>)>,
    /// Endpoints that have not answered 2xx yet.
    pub pending: BTreeSet<String>,
    /// An attempt has failed and none has succeeded since.
    pub failing: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Snapshot {
        object: Value,
        previous: Option<Value>,
    },
    /// An event of API v2: it names its object instead of showing it. Only a call that retrieves the event gets `data`.
    Thin {
        related: Value,
        data: Value,
    },
}

/// The former values of the top-level fields that differ; `None`: no field differs.
pub(crate) fn changed(before: &Value, after: &Value) -> Option<Value> {
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
    pub(crate) fn is_thin(&self) -> bool {
        matches!(self.content, Content::Thin { .. })
    }

    /// The event as an endpoint with this API version receives it.
    pub(crate) fn render(&self, api_version: &str) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_that_differ_are_previous_attributes() {
        let before = json!({ "status": "active", "items": [1], "same": 1 });
        assert_eq!(changed(&before, &before), None);
        let after = json!({ "status": "past_due", "items": [1], "same": 1, "new": 2 });
        assert_eq!(
            changed(&before, &after),
            Some(json!({ "status": "active", "new": null }))
        );
    }
}

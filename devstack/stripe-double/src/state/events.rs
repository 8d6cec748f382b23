//! Records events and puts them into the outbox.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::objects::event::{Content, Event};
use crate::spec::schema;
use crate::state::State;

/// Stripe keeps events for 30 days; the double keeps this many.
const EVENTS_MAX: usize = 10_000;

impl State {
    /// Records an event and puts it into the outbox of every endpoint that wants it.
    pub(crate) fn emit(&mut self, kind: &str, object: Value, previous: Option<Value>) -> String {
        self.check_own(&object, kind);
        if !schema().knows_event(kind) {
            self.violation(format!("mistake of the double: the schema has no event type {kind}"));
        }
        self.emit_any(kind, Content::Snapshot { object, previous })
    }

    /// An event of a type that the schema does not know.
    pub(crate) fn emit_unknown(&mut self, kind: &str, object: Value) -> String {
        self.emit_any(kind, Content::Snapshot { object, previous: None })
    }

    /// Emits the thin event for a meter event that could not be counted.
    pub(crate) fn report_meter_error(&mut self, meter: &str, code: &str, identifier: &str) -> String {
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

    pub(crate) fn emit_any(&mut self, kind: &str, content: Content) -> String {
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

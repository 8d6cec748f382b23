//! A meter, which adds up the events of one name.

use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub id: String,
    pub event_name: String,
    pub display_name: String,
    pub formula: Formula,
    pub customer_key: String,
    pub value_key: String,
    pub active: bool,
    pub created: i64,
    pub updated: i64,
    pub deactivated_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Formula {
    Sum,
    Count,
}

impl Meter {
    pub(crate) fn status(&self) -> &'static str {
        if self.active { "active" } else { "inactive" }
    }

    pub(crate) fn render(&self) -> Value {
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

//! A test clock: its customers live in a time of their own.

use serde_json::{Value, json};

/// Stripe deletes a clock after this.
const KEPT_S: i64 = 30 * 86_400;

#[derive(Clone, Debug)]
pub(crate) struct TestClock {
    pub id: String,
    pub name: Option<String>,
    pub frozen_time: i64,
    pub created: i64,
}

impl TestClock {
    /// `advancing_to`: the time that it is on its way to.
    pub(crate) fn render(&self, advancing_to: Option<i64>) -> Value {
        let details = advancing_to.map(|to| json!({ "advancing": { "target_frozen_time": to } }));
        json!({
            "id": self.id, "object": "test_helpers.test_clock", "created": self.created,
            "deletes_after": self.created + KEPT_S, "frozen_time": self.frozen_time, "livemode": false, "name": self.name,
            "status": if advancing_to.is_some() { "advancing" } else { "ready" },
            "status_details": details.unwrap_or_else(|| json!({})),
        })
    }
}

//! One corrected event, and the id of the event that corrects it.

use schema::{AccountId, EventId};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

/// One corrected event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correction {
    /// Id of the correcting event.
    pub id: EventId,
    pub correction_id: Uuid,
    pub account_id: AccountId,
    /// The corrected event.
    pub event_id: EventId,
    pub usage_type: String,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    /// Units of the original event.
    pub cost_units: i64,
    pub delta_units: i64,
    /// Units after this correction.
    pub units_after: i64,
    pub reason: String,
    pub requested_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// `None`: not in the stream yet.
    #[serde(with = "time::serde::rfc3339::option")]
    pub published_at: Option<OffsetDateTime>,
    /// `None`: not given back yet.
    pub pool_returned_units: Option<i64>,
}

/// Returns the idempotency key and the id of the event that corrects `event`. Gateways accept no key with a space, so no client
/// event can have them.
pub fn event_of(account: AccountId, correction: Uuid, event: EventId) -> (String, EventId) {
    let key = format!("correction {correction} {event}");
    let id = EventId::of_idempotency_key(account, &key);
    (key, id)
}

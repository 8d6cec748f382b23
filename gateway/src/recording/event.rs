//! The event of one request, and the receipt for its client.

use std::net::IpAddr;

use schema::{EventId, LeaseId, UsageEvent, UsageType, usage_event::stored_address};

use crate::{
    accounts::key::Key,
    quota::{Admission, QuotaView},
};

/// Facts about a request that go into its event. The account and the units are not among them.
pub struct Facts {
    pub endpoint: String,
    pub method: String,
    pub request_id: String,
    pub address: IpAddr,
    pub user_agent: String,
    pub idempotency_key: Option<String>,
    /// Retries with the same key name the same event at every gateway, so it is counted once. `None`: a new event.
    pub event_id: Option<EventId>,
    /// When the request was admitted, in Unix milliseconds.
    pub time_ms: i64,
}

/// The facts about a recorded request that its client sees.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    pub event_id: EventId,
    pub usage_type: UsageType,
    pub cost_units: i64,
    pub quota: QuotaView,
}

/// The event of a request that is charged.
pub fn charged(key: &Key, admission: &Admission, facts: Facts, status: u16) -> (Receipt, UsageEvent) {
    let event_id = facts.event_id.unwrap_or_else(EventId::new);
    let event = event(key, admission, facts, status);
    let event = UsageEvent {
        event_id,
        cost_units: admission.cost_units,
        lease_id: admission.lease_id,
        ..event
    };
    (receipt(&event, admission), event)
}

/// The event of a request that was admitted and then failed.
pub(super) fn failed(key: &Key, admission: &Admission, facts: Facts, status: u16) -> (Receipt, UsageEvent) {
    let event = UsageEvent {
        event_id: EventId::new(),
        // Without the client's key: otherwise a later successful retry would count as a duplicate of this event.
        idempotency_key: String::new(),
        ..event(key, admission, facts, status)
    };
    (receipt(&event, admission), event)
}

/// Moves an event to a later admission of its request.
pub(super) fn stamp(event: &mut UsageEvent, admission: &Admission, time_ms: i64) {
    event.subscription_id = admission.subscription_id;
    event.period_start = admission.segment;
    event.cost_units = admission.cost_units;
    event.lease_id = admission.lease_id;
    event.time_ms = time_ms;
}

/// The event, still without an id and without units.
fn event(key: &Key, admission: &Admission, facts: Facts, status: u16) -> UsageEvent {
    UsageEvent {
        event_id: EventId::NIL,
        account_id: key.account.id,
        key_id: key.id,
        subscription_id: admission.subscription_id,
        period_start: admission.segment,
        usage_type: admission.usage_type.name().to_owned(),
        cost_units: 0,
        endpoint: facts.endpoint,
        method: facts.method,
        status,
        request_id: facts.request_id,
        ip_address: stored_address(facts.address),
        user_agent: facts.user_agent,
        time_ms: facts.time_ms,
        lease_id: LeaseId::NIL,
        idempotency_key: facts.idempotency_key.unwrap_or_default(),
        corrects: EventId::NIL,
    }
}

pub(super) fn receipt(event: &UsageEvent, admission: &Admission) -> Receipt {
    Receipt {
        event_id: event.event_id,
        usage_type: admission.usage_type,
        cost_units: event.cost_units,
        quota: admission.quota,
    }
}

//! One metered request on the wire: protobuf, so that readers of any version and language skip fields that they do not know.
//! The field numbers are the contract. `usage.proto` has it for other languages.

use std::net::{IpAddr, Ipv6Addr};

use prost::Message;

use crate::{AccountId, EventId, KeyId, LeaseId, SubscriptionId};

/// One metered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEvent {
    pub event_id: EventId,
    pub account_id: AccountId,
    pub key_id: KeyId,
    /// [`SubscriptionId::NIL`] on the Free plan.
    pub subscription_id: SubscriptionId,
    /// First second of the period in which the request was admitted. Every sum by period groups by this field, never by time.
    pub period_start: i64,
    pub usage_type: String,
    /// Units charged: 0 for a request that was admitted and then failed, negative for a correction.
    pub cost_units: i64,
    pub endpoint: String,
    pub method: String,
    /// The HTTP status of the response.
    pub status: u16,
    pub request_id: String,
    /// The client's address. An IPv4 address is in mapped form, `::ffff:a.b.c.d`.
    pub ip_address: Ipv6Addr,
    pub user_agent: String,
    /// When the request was admitted, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The lease of the units. [`LeaseId::NIL`]: none was needed (overage, metered, corrections).
    pub lease_id: LeaseId,
    /// Empty: none.
    pub idempotency_key: String,
    /// The event that this one corrects. [`EventId::NIL`]: it is not a correction.
    pub corrects: EventId,
}

/// An event, encoded for a batch. Encoded once when the request is answered, copied when the batch is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedEvent(pub(crate) Vec<u8>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("{0} must be sixteen bytes")]
    Id(&'static str),
    #[error("{0} is out of range")]
    Range(&'static str),
    #[error("the event has no {0}")]
    Missing(&'static str),
}

/// Checks that the columns of ClickHouse can hold the times of an event. It would silently store others.
pub fn check_times(period_start: i64, time_ms: i64) -> Result<(), EventError> {
    // `DateTime64(3)` reaches from 1900 to 2299.
    const TS: std::ops::Range<i64> = -2_208_988_800_000..10_413_792_000_000;
    if u32::try_from(period_start).is_err() {
        return Err(EventError::Range("period_start (a DateTime, 1970 to 2106)"));
    }
    if !TS.contains(&time_ms) {
        return Err(EventError::Range("time_ms (a DateTime64, 1900 to 2299)"));
    }
    Ok(())
}

/// An address in the form that is stored.
pub fn stored_address(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

impl UsageEvent {
    pub fn encode(&self) -> EncodedEvent {
        EncodedEvent(self.to_wire().encode_to_vec())
    }

    pub(crate) fn to_wire(&self) -> Wire {
        Wire {
            event_id: self.event_id.to_wire(),
            account_id: self.account_id.to_wire(),
            key_id: self.key_id.to_wire(),
            subscription_id: self.subscription_id.to_wire(),
            period_start: self.period_start,
            usage_type: self.usage_type.clone(),
            cost_units: self.cost_units,
            endpoint: self.endpoint.clone(),
            method: self.method.clone(),
            status: u32::from(self.status),
            request_id: self.request_id.clone(),
            ip_address: self.ip_address.octets().to_vec(),
            user_agent: self.user_agent.clone(),
            time_ms: self.time_ms,
            lease_id: self.lease_id.to_wire(),
            idempotency_key: self.idempotency_key.clone(),
            corrects: self.corrects.to_wire(),
        }
    }

    pub(crate) fn from_wire(wire: Wire) -> Result<Self, EventError> {
        let event_id = EventId::from_wire(&wire.event_id).ok_or(EventError::Id("event_id"))?;
        let account_id = AccountId::from_wire(&wire.account_id).ok_or(EventError::Id("account_id"))?;
        if event_id.is_nil() {
            return Err(EventError::Missing("event_id"));
        }
        if account_id.is_nil() {
            return Err(EventError::Missing("account_id"));
        }
        if wire.usage_type.is_empty() {
            return Err(EventError::Missing("usage_type"));
        }
        Ok(Self {
            event_id,
            account_id,
            key_id: KeyId::from_wire(&wire.key_id).ok_or(EventError::Id("key_id"))?,
            subscription_id: SubscriptionId::from_wire(&wire.subscription_id)
                .ok_or(EventError::Id("subscription_id"))?,
            period_start: wire.period_start,
            usage_type: wire.usage_type,
            cost_units: wire.cost_units,
            endpoint: wire.endpoint,
            method: wire.method,
            status: u16::try_from(wire.status).map_err(|_| EventError::Range("status"))?,
            request_id: wire.request_id,
            ip_address: match wire.ip_address.len() {
                0 => Ipv6Addr::UNSPECIFIED,
                _ => <[u8; 16]>::try_from(wire.ip_address)
                    .map_err(|_| EventError::Id("ip_address"))?
                    .into(),
            },
            user_agent: wire.user_agent,
            time_ms: wire.time_ms,
            lease_id: LeaseId::from_wire(&wire.lease_id).ok_or(EventError::Id("lease_id"))?,
            idempotency_key: wire.idempotency_key,
            corrects: EventId::from_wire(&wire.corrects).ok_or(EventError::Id("corrects"))?,
        })
    }
}

impl EncodedEvent {
    /// Upper bound for the bytes of this event in a batch.
    pub fn size(&self) -> usize {
        // The key of the field and a length of up to four bytes come before it.
        self.0.len() + 5
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    event_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    account_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    subscription_id: Vec<u8>,
    #[prost(int64, tag = "5")]
    period_start: i64,
    #[prost(string, tag = "6")]
    usage_type: String,
    #[prost(sint64, tag = "7")]
    cost_units: i64,
    #[prost(string, tag = "8")]
    endpoint: String,
    #[prost(string, tag = "9")]
    method: String,
    #[prost(uint32, tag = "10")]
    status: u32,
    #[prost(string, tag = "11")]
    request_id: String,
    #[prost(bytes = "vec", tag = "12")]
    ip_address: Vec<u8>,
    #[prost(string, tag = "13")]
    user_agent: String,
    #[prost(int64, tag = "14")]
    time_ms: i64,
    #[prost(bytes = "vec", tag = "15")]
    lease_id: Vec<u8>,
    #[prost(string, tag = "16")]
    idempotency_key: String,
    #[prost(bytes = "vec", tag = "17")]
    corrects: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_the_columns_are_refused() {
        assert_eq!(check_times(1_793_491_200, 1_795_420_800_123), Ok(()));
        for (period_start, time_ms) in [
            (-1, 0),
            (1 << 32, 0),
            (0, i64::MAX),
            (0, i64::MIN),
            (0, 10_413_792_000_000),
        ] {
            assert!(check_times(period_start, time_ms).is_err(), "{period_start} {time_ms}");
        }
    }
}

//! A record as it was read and decoded.

use protocol::duplicates::KeyedEvent;
use schema::{RunId, UsageEvent};
use tokio::sync::OwnedSemaphorePermit;

/// A record of the stream. An open, fence, close or undecodable record has no events: it only moves the range forward.
#[derive(Debug)]
pub struct Record {
    pub seq: u64,
    pub run_id: RunId,
    pub events: Vec<UsageEvent>,
    /// Bytes of its message.
    pub bytes: u64,
    /// When the stream stored it, in milliseconds since the Unix epoch.
    pub stored_ms: i64,
    /// Its share of the memory that all shards share.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Record {
    /// Its events with their indices.
    pub fn indexed(&self) -> impl Iterator<Item = (u32, &UsageEvent)> + Clone {
        (0u32..).zip(&self.events)
    }
}

/// The events with an `Idempotency-Key`, in order.
pub fn keyed(records: &[Record]) -> impl Iterator<Item = KeyedEvent> + Clone {
    records.iter().flat_map(|record| {
        let with_key = record.indexed().filter(|(_, event)| has_key(event));
        with_key.map(move |(idx, event)| KeyedEvent {
            position: (record.seq, idx),
            account_id: event.account_id,
            event_id: event.event_id,
            stored_ms: record.stored_ms,
        })
    })
}

pub fn has_key(event: &UsageEvent) -> bool {
    !event.idempotency_key.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::row::tests::event;

    #[test]
    fn only_events_with_a_key_are_looked_at() {
        let with_key = |n, key: &str| UsageEvent {
            idempotency_key: key.to_owned(),
            ..event(n)
        };
        let records = [Record {
            seq: 3,
            run_id: RunId::NIL,
            events: vec![with_key(1, ""), with_key(2, "a"), with_key(3, "")],
            bytes: 0,
            stored_ms: 7,
            permit: None,
        }];
        let found: Vec<_> = keyed(&records).collect();
        let expected = KeyedEvent {
            position: (3, 1),
            account_id: event(2).account_id,
            event_id: event(2).event_id,
            stored_ms: 7,
        };
        assert_eq!(found, [expected]);
    }
}

//! The records of a lane. A lane is one subject that one run writes: an open record, batches, then a close or a fence.

use prost::{
    Message, Oneof,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use crate::{
    BatchId, RunId,
    usage_event::{EncodedEvent, EventError, UsageEvent, Wire},
};

/// The version that this code writes, and the newest that it reads.
pub const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRecord {
    pub run_id: RunId,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first record of every lane, so that no event is ever published with an expected sequence of 0.
    Open,
    Batch {
        batch_id: BatchId,
        events: Vec<UsageEvent>,
    },
    /// Ends a lane in place of its run: from here on NATS refuses the writes of the run. Names the last batch before it
    /// ([`BatchId::NIL`]: none), so that the run can tell which batches were stored.
    Fence {
        last_batch: BatchId,
    },
    /// The last record of the run itself: it stopped, and nothing is missing.
    Close,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer writer made it. Wait for an upgrade. The record must not be skipped.
    #[error("lane record version {0} is newer than {VERSION}, the newest this build reads: upgrade it")]
    UnknownVersion(u32),
    /// It can never be decoded.
    #[error("malformed lane record: {0}")]
    Malformed(String),
    #[error("event {index} of the batch: {source}")]
    Event { index: usize, source: EventError },
}

/// Builds the bytes of a batch from encoded events, with one copy of each.
pub struct BatchBuilder {
    batch_id: BatchId,
    /// The batch message: its id, then the events.
    body: Vec<u8>,
    events: usize,
}

impl LaneRecord {
    pub fn open(run_id: RunId) -> Self {
        Self {
            run_id,
            kind: Kind::Open,
        }
    }

    pub fn close(run_id: RunId) -> Self {
        Self {
            run_id,
            kind: Kind::Close,
        }
    }

    pub fn fence(run_id: RunId, last_batch: BatchId) -> Self {
        Self {
            run_id,
            kind: Kind::Fence { last_batch },
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let kind = match &self.kind {
            Kind::Open => WireKind::Open(Empty {}),
            Kind::Close => WireKind::Close(Empty {}),
            Kind::Fence { last_batch } => WireKind::Fence(WireFence {
                last_batch: last_batch.to_wire(),
            }),
            Kind::Batch { batch_id, events } => WireKind::Batch(WireBatch {
                batch_id: batch_id.to_wire(),
                events: events.iter().map(UsageEvent::to_wire).collect(),
            }),
        };
        WireRecord {
            version: VERSION,
            run_id: self.run_id.to_wire(),
            kind: Some(kind),
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        // The version first: the rest of a newer record may be unreadable.
        let Version { version } = Version::decode(bytes).map_err(malformed)?;
        match version {
            1..=VERSION => {}
            0 => return Err(DecodeError::Malformed("it carries no version".into())),
            newer => return Err(DecodeError::UnknownVersion(newer)),
        }
        let record = WireRecord::decode(bytes).map_err(malformed)?;
        let run_id = RunId::from_wire(&record.run_id)
            .filter(|id| !id.is_nil())
            .ok_or_else(|| no("run_id"))?;
        let kind = match record.kind.ok_or_else(|| no("kind"))? {
            WireKind::Open(_) => Kind::Open,
            WireKind::Close(_) => Kind::Close,
            WireKind::Fence(fence) => Kind::Fence {
                last_batch: BatchId::from_wire(&fence.last_batch).ok_or_else(|| no("last_batch"))?,
            },
            WireKind::Batch(batch) => {
                let batch_id = BatchId::from_wire(&batch.batch_id)
                    .filter(|id| !id.is_nil())
                    .ok_or_else(|| no("batch_id"))?;
                let read =
                    |(index, wire)| UsageEvent::from_wire(wire).map_err(|source| DecodeError::Event { index, source });
                Kind::Batch {
                    batch_id,
                    events: batch
                        .events
                        .into_iter()
                        .enumerate()
                        .map(read)
                        .collect::<Result<_, _>>()?,
                }
            }
        };
        Ok(Self { run_id, kind })
    }
}

impl BatchBuilder {
    pub fn new(batch_id: BatchId) -> Self {
        let mut body = Vec::with_capacity(4 * 1024);
        push_bytes(&mut body, WireBatch::BATCH_ID, batch_id.0.as_bytes());
        Self {
            batch_id,
            body,
            events: 0,
        }
    }

    pub fn push(&mut self, event: &EncodedEvent) {
        push_bytes(&mut self.body, WireBatch::EVENTS, &event.0);
        self.events += 1;
    }

    pub fn batch_id(&self) -> BatchId {
        self.batch_id
    }

    pub fn events(&self) -> usize {
        self.events
    }

    /// Size of the record so far, without its envelope of about thirty bytes.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// The record, with the same bytes as [`LaneRecord::encode`].
    pub fn finish(self, run_id: RunId) -> Vec<u8> {
        let mut record = WireRecord {
            version: VERSION,
            run_id: run_id.to_wire(),
            kind: None,
        }
        .encode_to_vec();
        record.reserve(self.body.len() + key_len(WireRecord::BATCH) + encoded_len_varint(self.body.len() as u64));
        push_bytes(&mut record, WireRecord::BATCH, &self.body);
        record
    }
}

fn push_bytes(into: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    encode_key(field, WireType::LengthDelimited, into);
    encode_varint(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

fn malformed(error: prost::DecodeError) -> DecodeError {
    DecodeError::Malformed(error.to_string())
}

fn no(field: &str) -> DecodeError {
    DecodeError::Malformed(format!("no valid {field}"))
}

#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(uint32, tag = "1")]
    version: u32,
}

#[derive(Clone, PartialEq, Message)]
struct WireRecord {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    run_id: Vec<u8>,
    #[prost(oneof = "WireKind", tags = "3, 4, 5, 6")]
    kind: Option<WireKind>,
}

impl WireRecord {
    const BATCH: u32 = 4;
}

#[derive(Clone, PartialEq, Oneof)]
enum WireKind {
    #[prost(message, tag = "3")]
    Open(Empty),
    #[prost(message, tag = "4")]
    Batch(WireBatch),
    #[prost(message, tag = "5")]
    Fence(WireFence),
    #[prost(message, tag = "6")]
    Close(Empty),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct WireFence {
    #[prost(bytes = "vec", tag = "1")]
    last_batch: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireBatch {
    #[prost(bytes = "vec", tag = "1")]
    batch_id: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    events: Vec<Wire>,
}

impl WireBatch {
    const BATCH_ID: u32 = 1;
    const EVENTS: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccountId, EventId, KeyId, LeaseId, SubscriptionId};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn event(n: u128) -> UsageEvent {
        UsageEvent {
            event_id: EventId(Uuid::from_u128(n + 1)),
            account_id: AccountId(Uuid::from_u128(2)),
            key_id: KeyId(Uuid::from_u128(3)),
            subscription_id: SubscriptionId::NIL,
            period_start: 1_793_491_200,
            usage_type: "sentiment_analysis".into(),
            cost_units: 25,
            endpoint: "/api/sentiment/analyze-batch".into(),
            method: "POST".into(),
            status: 200,
            request_id: "req-1".into(),
            ip_address: "::ffff:192.0.2.7".parse().unwrap(),
            user_agent: "curl/8.5.0".into(),
            time_ms: 1_795_420_800_123,
            lease_id: LeaseId(Uuid::from_u128(4)),
            idempotency_key: String::new(),
            corrects: EventId::NIL,
        }
    }

    fn batch() -> LaneRecord {
        let correction = UsageEvent {
            cost_units: -25,
            corrects: event(0).event_id,
            lease_id: LeaseId::NIL,
            ..event(1)
        };
        LaneRecord {
            run_id: RunId(Uuid::from_u128(5)),
            kind: Kind::Batch {
                batch_id: BatchId(Uuid::from_u128(6)),
                events: vec![event(0), correction],
            },
        }
    }

    #[test]
    fn version_1_is_the_golden_bytes_for_ever() {
        assert_eq!(batch().encode(), include_bytes!("../fixtures/batch_v1.bin"));
        assert_eq!(
            LaneRecord::decode(include_bytes!("../fixtures/batch_v1.bin")).unwrap(),
            batch()
        );
    }

    #[test]
    fn a_batch_of_encoded_events_is_the_same_bytes() {
        let Kind::Batch { batch_id, events } = batch().kind else {
            unreachable!()
        };
        let mut builder = BatchBuilder::new(batch_id);
        events.iter().for_each(|event| builder.push(&event.encode()));
        assert_eq!(builder.events(), 2);
        assert_eq!(builder.finish(batch().run_id), batch().encode());
    }

    #[test]
    fn unknown_fields_are_tolerated() {
        let mut bytes = batch().encode();
        push_bytes(&mut bytes, 1_000, b"from the future");
        assert_eq!(LaneRecord::decode(&bytes).unwrap(), batch());
    }

    #[test]
    fn a_newer_version_is_distinguished_from_damage() {
        let newer = WireRecord {
            version: 2,
            run_id: vec![1; 16],
            kind: None,
        }
        .encode_to_vec();
        assert_eq!(LaneRecord::decode(&newer), Err(DecodeError::UnknownVersion(2)));
        for damaged in [&b""[..], b"\xff\xff", &batch().encode()[..40]] {
            assert!(matches!(LaneRecord::decode(damaged), Err(DecodeError::Malformed(_))));
        }
    }

    #[test]
    fn open_fence_and_close_survive() {
        let run = RunId::new();
        for record in [
            LaneRecord::open(run),
            LaneRecord::close(run),
            LaneRecord::fence(run, BatchId::new()),
            LaneRecord::fence(run, BatchId::NIL),
        ] {
            assert_eq!(LaneRecord::decode(&record.encode()).unwrap(), record);
        }
    }

    proptest! {
        #[test]
        fn nonsense_never_panics(bytes: Vec<u8>) {
            drop(LaneRecord::decode(&bytes));
        }

        #[test]
        fn damage_never_panics(at: prop::sample::Index, byte: u8) {
            let mut bytes = batch().encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(LaneRecord::decode(&bytes));
        }
    }
}

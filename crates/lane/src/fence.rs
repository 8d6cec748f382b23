//! Ends a lane for its run, so that what the lane holds is final: no clock says that a writer is dead, NATS refuses it.

use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use schema::{BatchId, LaneRecord};
use service::Backoff;
use tokio::time::sleep;

use crate::{
    lane::{Answer, LastRecord, Message, Seen},
    subject::LaneSubject,
};

/// Looks and attempts, together; a lane that is written to meanwhile moves on under each.
const TRIES_MAX: u32 = 20;

/// The lane's end, by its sequence in the stream: a fence that is appended now or was there before, or the close record of
/// the run itself. Nothing of the run is ever stored behind it. `timeout` is for each of at most twenty looks and attempts.
///
/// A stream that is full has no room for a fence either; then this fails, and may be called again. Nothing waits for a fence
/// that room waits for: the ingestors store what is in the stream and trim it, fenced or not.
pub async fn fence(lane: &LaneSubject, timeout: Duration) -> Result<u64> {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    while backoff.tries() < TRIES_MAX {
        let (expected, last_batch) = match lane.last_record(timeout).await? {
            LastRecord::At { sequence, record } => match record {
                Seen::Fence { .. } | Seen::Ours(Message::Close) => return Ok(sequence),
                Seen::Ours(Message::Batch(batch)) => (sequence, batch),
                Seen::Ours(Message::Open) => (sequence, BatchId::NIL),
                Seen::Foreign => bail!("another run has written to the lane {}", lane.name()),
                Seen::Unreadable => bail!("the last record of the lane {} cannot be read", lane.name()),
            },
            // Not opened yet, and with a record in it it never will be; or ended long ago and trimmed.
            LastRecord::None => (0, BatchId::NIL),
        };
        let record = Bytes::from(LaneRecord::fence(lane.run(), last_batch).encode());
        // Whatever the answer was, the next look tells: at most one record is stored under one expected sequence.
        if let Answer::Stored { sequence } = lane.publish(expected, record, timeout).await {
            return Ok(sequence);
        }
        sleep(backoff.next_delay()).await;
    }
    bail!("the lane {} could not be ended in {TRIES_MAX} tries", lane.name())
}

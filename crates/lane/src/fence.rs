//! Ends a lane for its run. The contents of the lane are then final: NATS refuses the writer, and no clock is involved.

use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use protocol::{
    fence::{self, Step},
    lane::AttemptOutcome,
};
use schema::LaneRecord;
use service::Backoff;
use tokio::time::sleep;

use crate::subject::LaneSubject;

/// Limits reads and attempts together. A writer that still publishes makes an attempt fail.
const TRIES_MAX: u32 = 20;

/// Returns the sequence at which the lane ends: the sequence of a new fence, of an existing fence, or of the run's own close
/// record. Nothing of the run is ever stored after it. `timeout` limits each of at most twenty reads and attempts.
///
/// A full stream has no room for a fence. Then this fails, and the caller tries again later. This causes no deadlock: the
/// ingestors store and trim the stream whether its lanes are fenced or not.
pub async fn fence(lane: &LaneSubject, timeout: Duration) -> Result<u64> {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    while backoff.tries() < TRIES_MAX {
        let (expected, last_batch) = match fence::step(lane.last_record(timeout).await?) {
            Ok(Step::Ended { sequence }) => return Ok(sequence),
            Ok(Step::Append { expected, last_batch }) => (expected, last_batch),
            Err(why) => bail!("the lane {} cannot be fenced: {why}", lane.name()),
        };
        let record = Bytes::from(LaneRecord::fence(lane.run(), last_batch).encode());
        // After any other answer, the next read shows the state. At most one record is stored under one expected sequence.
        if let AttemptOutcome::Stored { sequence } = lane.publish(expected, record, timeout).await {
            return Ok(sequence);
        }
        sleep(backoff.next_delay()).await;
    }
    bail!("the lane {} could not be ended in {TRIES_MAX} tries", lane.name())
}

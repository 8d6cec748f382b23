//! What the lanes of one run share.

use std::time::Duration;

use schema::RunId;
use tokio_util::sync::CancellationToken;

use crate::{gathered::BatchLimits, link::Link, metrics::LaneMetrics};

/// Time limits and bounds of a lane.
#[derive(Clone, Debug)]
pub struct LaneLimits {
    pub batch: BatchLimits,
    /// For one attempt to publish, and for one read of the last record.
    pub attempt_timeout: Duration,
    /// A message without an outcome for this long goes to the spool. Without a spool, the lane takes nothing more until the
    /// message has an outcome.
    pub stuck_after: Duration,
    /// After this, counted from the first attempt to publish their message, waiters get "unknown".
    pub outcome_deadline: Duration,
}

/// Everything that the lanes of a run share.
#[derive(Clone)]
pub struct LaneContext {
    pub run: RunId,
    pub link: Link,
    pub limits: LaneLimits,
    pub metrics: LaneMetrics,
    /// Cancelled by the lane that finds itself fenced. All lanes of the run then end.
    pub fenced: CancellationToken,
}

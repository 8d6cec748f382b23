//! The context that all lanes of one run share.

use std::time::Duration;

use schema::RunId;
use tokio_util::sync::CancellationToken;

use crate::{gathered::BatchLimits, link::Link, metrics::LaneMetrics};

/// Time limits and bounds of a lane.
#[derive(Clone, Debug)]
pub struct LaneLimits {
    pub batch: BatchLimits,
    /// For one publish attempt, and for one read of the last record.
    pub attempt_timeout: Duration,
    /// A message without an outcome for this long goes to the spool. Without a spool, the lane takes nothing more until the
    /// message has an outcome.
    pub stuck_after: Duration,
    /// Waiters get "unknown" after this time, counted from the first attempt to publish their message.
    pub outcome_deadline: Duration,
}

/// Everything that the lanes of a run share.
#[derive(Clone)]
pub struct LaneContext {
    pub run: RunId,
    pub link: Link,
    pub limits: LaneLimits,
    pub metrics: LaneMetrics,
    /// A lane that finds itself fenced cancels this token. Then all lanes of the run end.
    pub fenced: CancellationToken,
}

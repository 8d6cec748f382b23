//! Corrections: lower recorded usage afterwards, completely (void) or in part. A correction never raises usage.
//!
//! A correction is an event with negative `cost_units`, in a lane of the billing worker. It has the period and the time of the
//! original event, names it in `corrects`, and has no lease. So `sum(cost_units)` stays correct, and ClickHouse as well as
//! PostgreSQL contain the history.
//!
//! | what | file |
//! |---|---|
//! | decide what a request changes, under the account's lock | [`request`] |
//! | read the original events from ClickHouse | [`originals`] |
//! | the statements on the table `corrections` | [`repository`] |
//! | publish waiting corrections, in a run of its own | [`session`] |
//! | resolve corrections of a run that did not end normally | [`resolve`] |
//! | the background task that does both | [`work`] |
//! | give units of dropped duplicates back to their pools | [`duplicates`] |
//!
//! # Each correction is stored once, even after crashes
//! 1. `create` commits the rows. A repeated request finds its rows: a correction id corrects an event once.
//! 2. A session *hands* rows to its run (`run_id`, committed) before it publishes them.
//! 3. The lane reports the result. Stored: one transaction sets `published_at` and gives the units back to the pool. Not stored:
//!    `run_id` is cleared and the row waits again. Unknown, or the transaction fails: the run is given up.
//! 4. Rows whose run is over are resolved. They are never sent again on a guess. A fence ends the run's lane: after it, NATS
//!    refuses everything that this run still sends. When the ingestor has passed the fence, ClickHouse contains every event that
//!    the lane will ever have. So the correcting event is there (stored, see 3) or will never be there (not stored, see 3).
//!
//! A row belongs to one run at a time. Another run gets it only when it is certain that the first run will never store it, so
//! the stream never contains two records of one correcting event. This relies neither on dropping duplicates (the event's id and
//! idempotency key do come from the correction, so duplicates could be found) nor on a clock: a live run that is declared dead
//! loses its lane, and nothing else.

pub mod correction;
pub mod duplicates;
pub mod originals;
pub mod repository;
pub mod request;
pub mod resolve;
pub mod session;
pub mod work;

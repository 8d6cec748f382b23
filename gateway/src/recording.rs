//! Recording: publishes events to the stream, and spends their units.
//!
//! | to find | open |
//! |---|---|
//! | admit before a request is served, record after it | [`recorder`] |
//! | the event of a request | [`event`] |
//! | publishing events to their lanes, with the units that they spend | [`publisher`] |
//! | the current run | [`current_run`] |
//! | work that continues after its client left | [`completion`] |
//! | one response for each `Idempotency-Key` | [`responses`] |

pub mod completion;
pub mod current_run;
pub mod event;
pub mod publisher;
pub mod recorder;
pub mod responses;

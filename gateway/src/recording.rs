//! Recording: events on their way to the stream, and the units that they spend.
//!
//! | to find | open |
//! |---|---|
//! | admit before a request is served, record after it | [`recorder`] |
//! | the event of a request | [`event`] |
//! | events and the units that pay for them, on their way to their lanes | [`publisher`] |
//! | which run records now | [`current_run`] |
//! | work that goes on after its client left | [`completion`] |
//! | one answer for each `Idempotency-Key` | [`answers`] |

pub mod answers;
pub mod completion;
pub mod current_run;
pub mod event;
pub mod publisher;
pub mod recorder;

//! Recording: events on their way to the stream, and the units that they spend.
//!
//! | to find | open |
//! |---|---|
//! | decide before a request is served, record after it | [`metering`] |
//! | events and the units that pay for them, on their way to their lanes | [`publisher`] |
//! | which run records now | [`current_run`] |
//! | work that goes on when its client has left | [`completion`] |
//! | one answer to one `Idempotency-Key` | [`answers`] |

pub mod answers;
pub mod completion;
pub mod current_run;
pub mod metering;
pub mod publisher;

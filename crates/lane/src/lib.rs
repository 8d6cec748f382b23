//! Writing to lanes: how a service that has usage to record (a gateway its requests, the billing worker its corrections)
//! puts each event into the stream once, and learns whether it is there.
//!
//! | what | file |
//! |---|---|
//! | a run: its row, its heartbeat, its lanes | [`run`] |
//! | events on their way, and what became of them | [`publisher`] |
//! | the protocol of a lane, pure | [`protocol::lane`] |
//! | a lane at work: what waits, what is written; what travels in one message | [`task`], [`waiting`], [`writer`], [`gathered`] |
//! | while NATS is away: a lane that spools, and the spool | [`spooled`], [`spool`] |
//! | a lane's subject: publish, read the last record | [`subject`] |
//! | how the stream is cut; whether NATS is there | [`stream`], [`link`] |
//! | ending a lane for its run | [`fence`] |
//! | what is counted | [`metrics`] |
//!
//! # Invariants
//! - What was said to be stored is in the stream, once, or is in the spool and will be; what was said not to be never is,
//!   and was given back ([`publisher::Units`]).
//! - Units of an event whose outcome is not known are spent, never given back.
//! - A run is closed only after all its lanes are.

pub mod context;
pub mod fence;
pub mod gathered;
pub mod link;
pub mod metrics;
pub mod outgoing;
pub mod publisher;
pub mod run;
pub mod spool;
mod spooled;
pub mod stream;
pub mod subject;
pub mod task;
mod waiting;
mod writer;

pub use protocol::lane;
pub use protocol::lane::{Answer, End, Lane, LastRecord, Message, Next, Seen, Verdict};

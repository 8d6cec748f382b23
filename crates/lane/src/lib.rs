//! Writes usage events to lanes. A service that records usage (a gateway its requests, the billing worker its corrections)
//! publishes each event to the stream once, and learns whether it is stored.
//!
//! | what | file |
//! |---|---|
//! | a run: its row, its heartbeat, its lanes | [`run`] |
//! | publishing events, and their outcomes | [`publisher`] |
//! | the lane protocol, pure | [`protocol::lane`] |
//! | a running lane: its queue, its writer, the content of one message | [`task`], [`waiting`], [`writer`], [`gathered`] |
//! | while NATS is unavailable: a lane that spools, and the spool | [`spooled`], [`spool`] |
//! | a lane's subject: publish, read the last record | [`subject`] |
//! | the stream's shards and generation; whether NATS is connected | [`stream`], [`link`] |
//! | ending a lane for its run | [`fence`] |
//! | metrics | [`metrics`] |
//!
//! # Invariants
//! - An event reported as stored is in the stream once, or is in the spool and will be. An event reported as not stored
//!   never will be, and its units are given back ([`publisher::Units`]).
//! - An event with an unknown outcome spends its units. They are never given back.
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

//! Usage notices: at thresholds of a limit an account is told, once, by a signed POST to its URL and by a message on NATS.
//!
//! | what | file |
//! |---|---|
//! | which thresholds are reached | [`threshold`] |
//! | what a notice says | [`message`] |
//! | when to try again, when to give up | [`schedule`] |
//! | secrets and signatures | [`signature`] |
//! | which addresses are refused | [`address`] |
//!
//! # Invariants
//! - One row for (account, usage type, period, threshold), for ever: the table's key says so, whoever raises a limit.
//! - A notice claims stored usage only, never units that gateways hold.
//! - An attempt goes to an address that was checked, on the connection that was made to it.
//! - A secret is in one answer, the one to its making, and in `notice_secrets`; neither it nor a URL is in a log.

pub mod address;
pub mod message;
pub mod schedule;
pub mod signature;
pub mod threshold;

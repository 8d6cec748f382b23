//! Shared code of the end-to-end tests: their own servers and services, waiting for conditions, and the ledger check.

pub mod client;
#[path = "../faults/mod.rs"]
pub mod faults;
pub mod stack;
pub mod wait;
pub mod wrong_clock;

pub use client::{Client, concurrently, count};
pub use stack::{Stack, StackOptions};
pub use wait::{PATIENCE, eventually, until_all};

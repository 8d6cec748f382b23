//! Meter reports: telling Stripe exactly the units that ClickHouse counts.
//!
//! | what | module |
//! |---|---|
//! | a line of the ledger: one account, usage type and period; what a count means for it | [`ledger`] |
//! | one report: when to send it, when to compare, what an answer makes of it | [`report`], [`outcome`] |
//! | the identifier of a report, by which Stripe knows it | [`identifier`] |
//! | which timestamps a period's reports carry, and whether it takes any more | [`period`] |
//!
//! ```text
//! line:    Even ─ usage ─> Report ─ delivered ─> Even        too late for the period: Carry        unexplained loss: Drift
//! report:  written ─> Send ─ "done", "exists already" ─> Delivered
//!                          ─ not now ─> Send again, later
//!                          ─ nothing is known ─> Send again under the same identifier, for 20 hours; then Compare
//!                          ─ refused ─> Parked, until somebody looks
//!          Compare ─ Stripe has it ─> Delivered; has it not ─> Send; has something else ─> Parked
//! ```
//!
//! # Promises
//! - A report is written before it is sent, and its identifier never changes. Stripe counts it once at most.
//! - reported + (the open report, once delivered) = counted + carried in − carried out.
//! - What a correction does not explain is drift. It raises an alarm and is never sent.
//!
//! The tests of this module hold the protocol to these promises over 4,000 random schedules of usage, corrections, lost
//! answers, deaths between any two writes, and a Stripe that forgets identifiers after 24 hours.

pub mod identifier;
pub mod ledger;
pub mod outcome;
pub mod period;
pub mod report;
#[cfg(test)]
mod tests;

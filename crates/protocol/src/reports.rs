//! Meter reports: they report to Stripe exactly the units that ClickHouse counts.
//!
//! | what | module |
//! |---|---|
//! | a line of the ledger: one account, usage type and period; how to handle a count for it | [`ledger`] |
//! | one report: when to send it, when to compare it, how to handle an answer | [`report`], [`outcome`] |
//! | the identifier of a report at Stripe | [`identifier`] |
//! | where units go that are too late for their period | [`late`] |
//! | which lines of invoices a credit lowers | [`allocate`] |
//! | what usage costs; whether each cent of it is explained | [`money`] |
//! | the timestamps of a period's reports, and whether the period takes more reports | [`period`] |
//!
//! ```text
//! line:    Even ─ usage ─> Report ─ delivered ─> Even        too late for the period: Carry        unexplained loss: Drift
//! report:  written ─> Send ─ "done", "exists already" ─> Delivered
//!                          ─ not now ─> Send again, later
//!                          ─ nothing is known ─> Send again under the same identifier, for 20 hours; then Compare
//!                          ─ refused ─> Parked, until an operator looks
//!          Compare ─ Stripe has it ─> Delivered; does not have it ─> Send; has another total ─> Parked
//! ```
//!
//! # Promises
//! - A report is written before it is sent, and its identifier never changes. Stripe counts it at most once.
//! - reported + (the open report, once delivered) = counted + carried in − carried out.
//! - A loss that no correction explains is drift. It raises an alarm and is never sent.
//!
//! The tests of this module check these promises over 4,000 random schedules of usage, corrections, lost answers, deaths
//! between any two writes, and a Stripe that forgets identifiers after 24 hours.

pub mod allocate;
pub mod identifier;
pub mod late;
pub mod ledger;
pub mod money;
pub mod outcome;
pub mod period;
pub mod report;
#[cfg(test)]
mod tests;

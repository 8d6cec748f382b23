//! Deletes rows of `usage_events` when the retention of their account is over.
//!
//! | what | file |
//! |---|---|
//! | the daily step | [`step`] |
//! | which rows each account keeps. Pure. | [`rule`] |
//! | write these rules to ClickHouse | [`push`] |
//! | delete the other rows | [`deletion`] |
//!
//! It deletes only rows of closed days, whose sums stay in `usage_daily`. It keeps the rows of open periods and of periods that
//! billing may still read. The account's current plan decides: after an upgrade all remaining rows are kept longer.

mod deletion;
mod push;
mod rule;
pub mod step;

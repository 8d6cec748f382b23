//! The protocols as pure state machines: no I/O, no async, no clock.
//!
//! The services run this code. The models in `tests/models` and the loom tests in `tests/atomics` explore this code. So the
//! code that is explored is the code that runs.
//!
//! | protocol | modules | who runs it |
//! |---|---|---|
//! | quota: take, spend and give back units | [`grant`], [`lease`], [`give_back`], [`queued`] | gateway |
//! | time: which of three clocks is right | [`clock`] | gateway |
//! | announced changes: no copy of a row is used before the row was read again | [`doubt`] | gateway |
//! | spend caps: what usage costs, and how many units a cap allows | [`spend`] | gateway, billing worker |
//! | recording: publish each event once | [`lane`], [`spool_state`] | gateway, billing worker (the crate `lane`) |
//! | runs: who may take leases, spool, or be ended | [`run`] | gateway, billing worker |
//! | fence and settle: end a dead run, count its leases | [`fence`], [`give_back`] | billing worker |
//! | ingest: store each record once | [`members`], [`claim`], [`compare_and_set`], [`duplicates`], [`range`](mod@range), [`storing`], [`audit`], [`behind`], [`trim`] | ingestor |
//! | reports: report each unit to Stripe once | [`reports`] | billing worker |
//!
//! Each module describes its states and transitions, its promises, and which properties check them. A service performs the
//! effects: it reads the clock, sends the statement or the message, and feeds the result back. Statements in PostgreSQL
//! repeat a condition where two processes may act at the same time. The module names that condition.
//!
//! The atomics of [`lease`], [`queued`] and [`doubt`] are generic ([`atomics`]), so that loom can replace them.

pub mod atomics;
pub mod audit;
pub mod behind;
pub mod claim;
pub mod clock;
pub mod compare_and_set;
pub mod doubt;
pub mod duplicates;
pub mod fence;
pub mod give_back;
pub mod grant;
pub mod lane;
pub mod lease;
pub mod members;
pub mod queued;
pub mod range;
pub mod reports;
pub mod run;
pub mod spend;
pub mod spool_state;
pub mod storing;
pub mod trim;

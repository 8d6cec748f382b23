//! The fault suite: tries to break the guarantees, and reports whether it succeeded.
//!
//! ```text
//! plan (from a seed) ─> strike: kills, stops, restarts, cuts … ─┐
//! clients ─> history: every call and its outcome ───────────────┤─> evidence ─> checker ─> violations, figures
//! operator: limits, plans, keys, and when they changed ─────────┤
//! healed, drained: the data in ClickHouse, Postgres, NATS, Stripe ┘
//! ```
//! | to find | open |
//! |---|---|
//! | a run from its start to its report | [`suite`], [`report`] |
//! | which fault happens when | [`plan`], [`strike`] |
//! | the network faults | [`proxy`] |
//! | the clients and their calls | [`cast`], [`setup`], [`call`], [`load`], [`wire`], [`operator`] |
//! | the recorded outcomes | [`history`] |
//! | how the system is assembled, healed and settled | [`system`], [`rest`] |
//! | the contents of the stores | [`stores`], [`evidence`] |
//! | which outcomes are allowed | [`checker`], [`limits`], [`timeline`] |

pub mod call;
pub mod cast;
pub mod checker;
pub mod evidence;
pub mod history;
pub mod limits;
pub mod load;
pub mod operator;
pub mod plan;
pub mod proxy;
pub mod report;
pub mod rest;
pub mod setup;
pub mod stopwatch;
pub mod stores;
pub mod strike;
pub mod suite;
pub mod system;
pub mod timeline;
pub mod wire;

pub use suite::{Options, run};

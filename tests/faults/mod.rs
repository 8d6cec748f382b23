//! The fault suite: tries to break the guarantees, and says whether it could.
//!
//! ```text
//! plan (from a seed) ─> strike: kills, stops, restarts, cuts … ─┐
//! clients ─> history: what was asked, what was answered ────────┤─> evidence ─> checker ─> verdict, figures
//! operator: limits, plans, keys, and when they changed ─────────┤
//! healed, drained: what ClickHouse, Postgres, NATS and Stripe hold┘
//! ```
//! | to find | open |
//! |---|---|
//! | a run from its start to its report | [`suite`], [`report`] |
//! | what is struck when | [`plan`], [`strike`] |
//! | what the network does | [`proxy`] |
//! | who asks for what | [`cast`], [`setup`], [`call`], [`load`], [`wire`], [`operator`] |
//! | what was answered | [`history`] |
//! | how the system is put together, healed and brought to rest | [`system`], [`rest`] |
//! | what the stores hold | [`stores`], [`evidence`] |
//! | what may be, and what may not | [`checker`], [`limits`], [`timeline`] |

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

//! The manners that every service shares with the others: how it is configured, logs, connects, is watched and stops.
//!
//! | what | file |
//! |---|---|
//! | how every service starts | [`boot`] |
//! | settings that every service has, and how values are read | [`settings`] |
//! | logs, as text or JSON | [`telemetry`] |
//! | `/healthz`, `/readyz`, `/metrics` on the admin port | [`admin`] |
//! | the HTTP server of every port, and how long its clients may take | [`server`] |
//! | how many files may be open | [`open_files`] |
//! | signals, tasks, the deadline of a shutdown | [`lifecycle`] |
//! | waiting between tries | [`backoff`] |
//! | connections: NATS, PostgreSQL, ClickHouse | [`nats`], [`postgres`], [`clickhouse`] |

pub mod admin;
pub mod backoff;
pub mod boot;
pub mod clickhouse;
pub mod lifecycle;
pub mod nats;
pub mod open_files;
pub mod postgres;
pub mod server;
pub mod settings;
pub mod telemetry;

pub use admin::Health;
pub use backoff::Backoff;
pub use lifecycle::Lifecycle;

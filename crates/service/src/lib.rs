//! The behaviour that all services share: how a service is configured, logs, connects, is monitored and stops.
//!
//! | what | file |
//! |---|---|
//! | how every service starts | [`boot`] |
//! | common settings, and how setting values are read | [`settings`] |
//! | logs, as text or JSON | [`telemetry`] |
//! | `/healthz`, `/readyz`, `/metrics` on the admin port | [`admin`] |
//! | which parts of a service are up, and since when | [`health`] |
//! | the HTTP server of every port, and the time limits of its clients | [`server`] |
//! | the limit of open files | [`open_files`] |
//! | signals, tasks, the deadline of a shutdown | [`lifecycle`] |
//! | delays between tries | [`backoff`] |
//! | connections: NATS, PostgreSQL, ClickHouse | [`nats`], [`postgres`], [`clickhouse`] |

pub mod admin;
pub mod backoff;
pub mod boot;
pub mod clickhouse;
pub mod health;
pub mod lifecycle;
pub mod nats;
pub mod open_files;
pub mod postgres;
mod root_cause;
pub mod server;
pub mod settings;
pub mod telemetry;

pub use backoff::Backoff;
pub use health::Health;
pub use lifecycle::Lifecycle;

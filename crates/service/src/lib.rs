//! The manners that every service shares with the others: how it is configured, logs, connects, is watched and stops.
//!
//! | what | file |
//! |---|---|
//! | settings that all have | [`settings`] |
//! | logs, as text or JSON | [`telemetry`] |
//! | `/healthz`, `/readyz`, `/metrics` on the admin port | [`admin`] |
//! | the HTTP server of every port, and how long its clients may take | [`server`] |
//! | networks of addresses, such as those of trusted proxies | [`network`] |
//! | how many files may be open | [`open_files`] |
//! | signals, tasks, the deadline of a shutdown | [`lifecycle`] |
//! | waiting between tries | [`backoff`] |
//! | connections: NATS, PostgreSQL, ClickHouse | [`nats`], [`postgres`], [`clickhouse`] |

pub mod admin;
pub mod backoff;
pub mod clickhouse;
pub mod lifecycle;
pub mod nats;
pub mod network;
pub mod open_files;
pub mod postgres;
pub mod server;
pub mod settings;
pub mod telemetry;

pub use admin::Health;
pub use backoff::Backoff;
pub use lifecycle::Lifecycle;

//! The manners that every service shares with the others: how it is configured, logs, connects, is watched and stops.
//!
//! | what | file |
//! |---|---|
//! | settings that all have | [`settings`] |
//! | logs, as text or JSON | [`telemetry`] |
//! | `/healthz`, `/readyz`, `/metrics` on the admin port | [`admin`] |
//! | signals, tasks, the deadline of a shutdown | [`lifecycle`] |
//! | waiting between tries | [`backoff`] |
//! | connections: NATS, PostgreSQL, ClickHouse | [`nats`], [`postgres`], [`clickhouse`] |

pub mod admin;
pub mod backoff;
pub mod clickhouse;
pub mod lifecycle;
pub mod nats;
pub mod postgres;
pub mod settings;
pub mod telemetry;

pub use admin::Health;
pub use backoff::Backoff;
pub use lifecycle::Lifecycle;

//! The whole system on one machine, without a container engine: the real NATS, PostgreSQL and ClickHouse, and our own
//! services as child processes.
//!
//! # Code map
//! | to find | open |
//! |---|---|
//! | the three servers together, and one set shared by a test binary | [`servers`] |
//! | how one server is started | [`nats`], [`postgres`], [`clickhouse`] |
//! | what can be done to it: url, stop, kill -9, restart, pause | [`server`] |
//! | the HTTP interface in front of ClickHouse's engine | `clickhouse_http.py` |
//! | a gateway, ingestor or billing worker as a child process | [`service`], [`services`] |
//! | variables and commands for a person's shell | [`shell`] |
//! | a child process and its log | [`process`] |
//! | why no process and no directory outlives us | [`reaper`], `reaper.py` |
//! | where the servers' binaries come from | [`wheels`], `requirements.txt` |
//! | data directories and ports | [`data_dir`], [`ports`] |
//! | Stripe, doubled | [`stripe_double`], a crate of its own in `stripe-double/` |
//! | the cache inside the checkout and its locks | [`checkout`] |
//!
//! # Invariants
//! - A process is told to the reaper before it runs: nothing outlives us, also after kill -9.
//! - Only 127.0.0.1 is listened on.
//! - "Ready" is read from the server's own log or its own readiness page, so another server on the port is never taken
//!   for ours.
//! - A server that was named by an environment variable is used, never stopped, and nothing in it is deleted that was
//!   not made here.

pub mod admin;
pub mod checkout;
pub mod clickhouse;
pub mod data_dir;
pub mod demo;
pub mod http;
pub mod nats;
pub mod ports;
pub mod postgres;
pub mod process;
mod python;
pub mod reaper;
pub mod server;
pub mod servers;
pub mod service;
pub mod services;
pub mod shell;
pub mod system;
pub mod upstream;
pub mod wheels;

pub use clickhouse::{ClickHouse, ClickHouseOptions};
pub use data_dir::DataDir;
pub use nats::{Nats, NatsOptions};
pub use postgres::{Postgres, PostgresOptions};
pub use server::Server;
pub use servers::{Servers, ServersOptions};
pub use service::{Service, ServiceOptions};
pub use services::run_if_asked;
pub use stripe_double::{self, StripeDouble, StripeDoubleOptions};

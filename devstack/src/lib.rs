//! The whole system on one machine, without a container engine: the real NATS, PostgreSQL and ClickHouse, and our own
//! services as child processes.
//!
//! # Code map
//! | to find | open |
//! |---|---|
//! | the three servers together, and one set shared by a test binary | [`servers`] |
//! | how one server is started | [`nats`], [`postgres`], [`clickhouse`] |
//! | operations on a server: stop, kill -9, restart, pause | [`server`] |
//! | the HTTP interface in front of ClickHouse's engine | `clickhouse_http.py` |
//! | a gateway, ingestor or billing worker as a child process | [`service`], [`services`] |
//! | variables and commands for a person's shell | [`shell`] |
//! | a child process and its log | [`process`] |
//! | how every process and directory is removed at the end | [`reaper`], `reaper.py` |
//! | where the servers' binaries come from | [`wheels`], `requirements.txt`, `python` |
//! | data directories and ports | [`data_dir`], [`ports`] |
//! | a fake Stripe billing API with fault injection and a controllable clock | [`stripe_double`], the crate in `stripe-double/` |
//! | the cache inside the checkout and its locks | [`checkout`] |
//!
//! # Invariants
//! - The reaper knows every process before it runs, so no process outlives us, even after kill -9.
//! - Servers listen on 127.0.0.1 only.
//! - A server is ready when its own log or readiness page says so, so another server on the same port is never mistaken
//!   for it.
//! - A server that an environment variable names is used but never stopped, and nothing in it is deleted that we did
//!   not create.

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

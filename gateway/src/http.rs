//! The public port: routes, what every request gets, `/v1`, the reverse proxy, and problem bodies.
//!
//! | to find | open |
//! |---|---|
//! | the routes | [`router`] |
//! | everything that requests share | [`gateway`] |
//! | handling common to all requests | [`edge`] |
//! | `/v1` | [`api`] |
//! | the reverse proxy | [`proxy`] |
//! | a request's client, API key, `Idempotency-Key` and body | [`client`], [`auth`], [`idempotency_key`], [`body`] |
//! | showing a client its limits | [`rate_limit`], [`balance`] |
//! | problem bodies; which error becomes which problem | [`problem`], `failures` |
//! | responses that are stored and replayed | `replay` |
//! | request metrics; requests in progress | [`request_metrics`], [`under_way`] |

pub mod api;
pub mod auth;
pub mod balance;
pub mod body;
pub mod client;
pub mod edge;
mod failures;
pub mod gateway;
pub mod idempotency_key;
pub mod problem;
pub mod proxy;
pub mod rate_limit;
mod replay;
pub mod request_metrics;
pub mod router;
pub mod under_way;
mod uuid_value;

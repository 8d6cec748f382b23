//! The public port: routes, what every request gets, `/v1`, the reverse proxy, and problem bodies.
//!
//! | to find | open |
//! |---|---|
//! | the routes | [`router`] |
//! | what every request is decided with | [`gateway`] |
//! | what every request gets; which are refused because two readers could differ | [`edge`], [`framing`] |
//! | `/v1` | [`api`] |
//! | the reverse proxy | [`proxy`] |
//! | who sent a request, its API key, its `Idempotency-Key`, its body | [`client`], [`auth`], [`idempotency_key`], [`body`] |
//! | what a client is told of its limits | [`rate_limit`], [`balance`] |
//! | problem bodies; which error becomes which problem | [`problem`], `failures` |
//! | what is counted, and what is under way | [`request_metrics`], [`under_way`] |

pub mod api;
pub mod auth;
pub mod balance;
pub mod body;
pub mod client;
pub mod edge;
mod failures;
pub mod framing;
pub mod gateway;
pub mod idempotency_key;
pub mod problem;
pub mod proxy;
pub mod rate_limit;
pub mod request_metrics;
pub mod router;
pub mod under_way;
mod uuid_value;

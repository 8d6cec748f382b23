//! The HTTP/1 server of every port: its connections, their limits and their end. The router decides the responses.
//!
//! It uses hyper's own server rather than `axum::serve`, which installs no timer. Without a timer, a head or a body that
//! never arrives would hold its connection without end.
//!
//! | what | file |
//! |---|---|
//! | one connection | [`connection`] |
//! | common parts of every response: an id, and a body if it is a problem | [`mod@reply`], [`request_id`] |
//! | hyper's own responses to invalid heads | [`refused_head`] |
//! | requests that are refused on every port | [`framing`] |
//!
//! | what | limited by |
//! |---|---|
//! | connections, in total and of one address | [`ServerLimits::connections`], [`addresses`] |
//! | a head, an idle connection, a response that the client does not read | [`pulse`] |
//! | a body that arrives slowly or not at all | [`paced`] |

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::Router;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, TryAcquireError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{Backoff, settings::ServiceSettings};

mod addresses;
mod connection;
#[cfg(test)]
mod cost_tests;
pub mod framing;
mod limits;
mod metrics;
mod paced;
mod pulse;
mod refused_head;
mod reply;
pub mod request_id;

pub use limits::{ServerLimits, ServerSettings};
pub use metrics::ServerMetrics;
pub use paced::{BodyStalled, Pace, has_stalled};
pub use reply::{or_internal_error, reply};

use addresses::Addresses;
use connection::Serving;

/// How many connections the kernel queues until they are accepted.
const BACKLOG: u32 = 1024;

/// A bound address. Connections to it are refused until [`Server::listen`].
pub struct Server {
    socket: TcpSocket,
    limits: ServerLimits,
    metrics: ServerMetrics,
    type_base: Arc<str>,
}

pub struct Listening {
    listener: TcpListener,
    limits: ServerLimits,
    metrics: ServerMetrics,
    type_base: Arc<str>,
}

impl Server {
    /// `setting` names the setting of the address.
    pub fn bind(address: SocketAddr, setting: &str, limits: ServerLimits, service: &ServiceSettings) -> Result<Self> {
        let bind = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // Connections of an earlier process in TIME_WAIT do not block the address.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            std::io::Result::Ok(socket)
        };
        let socket = bind().with_context(|| format!("listening on {address} ({setting})"))?;
        Ok(Self {
            socket,
            limits,
            metrics: ServerMetrics::default(),
            type_base: service.problem_type_base.as_str().into(),
        })
    }

    pub fn address(&self) -> Result<SocketAddr> {
        self.socket.local_addr().context("reading the address of the socket")
    }

    pub fn metrics(&self) -> ServerMetrics {
        self.metrics.clone()
    }

    /// Uses metrics that are registered already.
    pub fn with_metrics(self, metrics: ServerMetrics) -> Self {
        Self { metrics, ..self }
    }

    pub fn listen(self) -> Result<Listening> {
        Ok(Listening {
            listener: self.socket.listen(BACKLOG).context("listening")?,
            limits: self.limits,
            metrics: self.metrics,
            type_base: self.type_base,
        })
    }
}

impl Listening {
    /// Serves until `stopping`. Then accepts nothing more and answers every request in progress (with `Connection: close`).
    /// Returns when the last connection has ended, or when all are `cut`.
    pub async fn run(self, router: Router, stopping: CancellationToken, cut: CancellationToken) {
        let Self {
            listener,
            limits,
            metrics,
            type_base,
        } = self;
        let addresses = Addresses::new(limits.connections_per_address, limits.unlimited.clone());
        let permits = Arc::new(Semaphore::new(limits.connections));
        let serving = Arc::new(Serving {
            http: connection::http(&limits),
            limits,
            router,
            metrics,
            type_base,
            stopping: stopping.clone(),
            cut,
        });
        let connections = TaskTracker::new();
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            let permit = match permits.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(TryAcquireError::Closed) => break,
                Err(TryAcquireError::NoPermits) => {
                    serving.metrics.full.inc();
                    match stopping.run_until_cancelled(permits.clone().acquire_owned()).await {
                        Some(Ok(permit)) => permit,
                        _ => break,
                    }
                }
            };
            let Some(accepted) = stopping.run_until_cancelled(listener.accept()).await else {
                break;
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff.reset();
                    let Some(counted) = addresses.admit(peer.ip()) else {
                        serving.metrics.refused.inc();
                        debug!(%peer, "refused a connection: its address has reached its limit");
                        continue;
                    };
                    let serving = serving.clone();
                    connections.spawn(async move {
                        serving.serve(stream, peer).await;
                        drop((permit, counted));
                    });
                }
                Err(error) if is_of_the_connection(&error) => debug!("accepting a connection: {error}"),
                Err(error) => {
                    // Usually out of file descriptors. Without a pause this loop would spin.
                    let delay = backoff.next_delay();
                    warn!("could not accept a connection ({error}): retrying in {delay:.1?}");
                    tokio::time::sleep(delay).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

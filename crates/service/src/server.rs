//! The HTTP/1 server of every port: connections, their bounds and their end. What is answered is the router's.
//!
//! hyper's own server rather than `axum::serve`, which installs no timer: a head or a body that never comes would hold its
//! connection for ever.
//!
//! | what | bounded by |
//! |---|---|
//! | connections, together and of one address | [`ServerLimits::connections`], [`addresses`] |
//! | a head, an idle connection, an answer that the client does not take | [`pulse`] |
//! | a body that comes slowly or not at all | [`paced`] |

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{body::Body as _, body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, TryAcquireError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::Backoff;

mod addresses;
mod limits;
mod metrics;
mod paced;
mod pulse;

pub use limits::{ServerLimits, ServerSettings};
pub use metrics::ServerMetrics;
pub use paced::{BodyStalled, Pace, has_stalled};

use addresses::Addresses;
use paced::Paced;
use pulse::{Answer, Observed, Pulse, overdue};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// Less than hyper's least is no buffer. It holds a head, and pieces of bodies.
const BUFFER_BYTES: usize = 64 * 1024;

/// An address that is ours; connections to it are refused until [`Server::listen`].
pub struct Server {
    socket: TcpSocket,
    limits: ServerLimits,
    metrics: ServerMetrics,
}

pub struct Listening {
    listener: TcpListener,
    limits: ServerLimits,
    metrics: ServerMetrics,
}

impl Server {
    /// `setting` names what the address was read from.
    pub fn bind(address: SocketAddr, setting: &str, limits: ServerLimits) -> Result<Self> {
        let bind = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // What a process before us left in TIME_WAIT does not keep us from its address.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            std::io::Result::Ok(socket)
        };
        let socket = bind().with_context(|| format!("listening on {address} ({setting})"))?;
        Ok(Self {
            socket,
            limits,
            metrics: ServerMetrics::default(),
        })
    }

    pub fn address(&self) -> Result<SocketAddr> {
        self.socket
            .local_addr()
            .context("reading the address that is listened on")
    }

    pub fn metrics(&self) -> ServerMetrics {
        self.metrics.clone()
    }

    pub fn listen(self) -> Result<Listening> {
        Ok(Listening {
            listener: self.socket.listen(BACKLOG).context("listening")?,
            limits: self.limits,
            metrics: self.metrics,
        })
    }
}

impl Listening {
    /// Of a port that is listened on already.
    pub fn of(listener: TcpListener, limits: ServerLimits, metrics: ServerMetrics) -> Self {
        Self {
            listener,
            limits,
            metrics,
        }
    }

    /// Serves until `stopping`; then accepts nothing more, lets every request under way be answered (with
    /// `Connection: close`), and returns when the last connection has ended, or all are `cut`.
    pub async fn run(self, router: Router, stopping: CancellationToken, cut: CancellationToken) {
        let Self {
            listener,
            limits,
            metrics,
        } = self;
        let addresses = Addresses::new(limits.connections_per_address, limits.unlimited.clone());
        let room = Arc::new(Semaphore::new(limits.connections));
        let serving = Arc::new(Serving {
            http: http(&limits),
            limits,
            router,
            metrics,
            stopping: stopping.clone(),
            cut,
        });
        let connections = TaskTracker::new();
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            let place = match room.clone().try_acquire_owned() {
                Ok(place) => place,
                Err(TryAcquireError::Closed) => break,
                Err(TryAcquireError::NoPermits) => {
                    serving.metrics.full.inc();
                    match stopping.run_until_cancelled(room.clone().acquire_owned()).await {
                        Some(Ok(place)) => place,
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
                        debug!(%peer, "a connection is refused: its address has as many as it may");
                        continue;
                    };
                    let serving = serving.clone();
                    connections.spawn(async move {
                        serving.serve(stream, peer).await;
                        drop((place, counted));
                    });
                }
                Err(error) if is_of_the_connection(&error) => debug!("accepting a connection: {error}"),
                Err(error) => {
                    // Out of file descriptors, mostly: without a pause this loop would only spin.
                    let delay = backoff.next_delay();
                    warn!("could not accept a connection ({error}): next try in {delay:.1?}");
                    tokio::time::sleep(delay).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

/// What all connections of a port share.
struct Serving {
    http: http1::Builder,
    limits: ServerLimits,
    router: Router,
    metrics: ServerMetrics,
    stopping: CancellationToken,
    cut: CancellationToken,
}

impl Serving {
    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        // Answers are small and whole: waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, "setting TCP_NODELAY: {error}");
        }
        let _open = self.metrics.open();
        let pulse = Arc::new(Pulse::begin());
        let pace = self.limits.body;
        let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
            pulse.asked();
            let (router, pulse) = (self.router.clone(), pulse.clone());
            let mut request = request.map(|body| match body.is_end_stream() {
                true => Body::empty(),
                false => Body::new(Paced::new(body, pace)),
            });
            request.extensions_mut().insert(ConnectInfo(peer));
            async move {
                let answer = router.oneshot(request).await;
                answer.map(|answer| answer.map(|body| Answer::new(body, pulse)))
            }
        });
        let observed = TokioIo::new(Observed::new(stream, pulse.clone()));
        let mut connection = std::pin::pin!(self.http.serve_connection(observed, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            overdue = overdue(&pulse, &self.limits) => {
                self.metrics.cut(overdue);
                return debug!(%peer, "a connection is cut: {overdue}");
            }
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    overdue = overdue(&pulse, &self.limits) => {
                        self.metrics.cut(overdue);
                        return debug!(%peer, "a connection is cut: {overdue}");
                    }
                    () = self.cut.cancelled() => {
                        return warn!(%peer, "a request under way is cut off: the deadline of the shutdown");
                    }
                }
            }
        };
        if let Err(error) = ended {
            debug!(%peer, "a connection ended: {error}");
        }
    }
}

/// hyper's own time-out for heads stays off: it sets a timer for every request, and [`pulse`] one for every few seconds. Its
/// least bound of headers (100; more is answered `431`) is kept, since another one costs an allocation a request.
fn http(limits: &ServerLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None)
        .max_buf_size(limits.head_bytes.max(BUFFER_BYTES))
        .max_header_size(limits.head_bytes);
    http
}

fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

//! The HTTP/1 server: connections, their bounds and their end. What is answered is the router's.
//!
//! hyper's own server rather than `axum::serve`, which installs no timer: its header time-out never fires.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use axum::{Router, extract::ConnectInfo};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use service::Backoff;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// For a request's head, from the moment the connection could send it: also the bound of an idle connection.
    pub head_timeout: Duration,
    /// Of a request's head; more is answered `431`.
    pub head_bytes: usize,
}

/// An address that is ours; connections to it are refused until [`Server::listen`].
pub struct Server {
    socket: TcpSocket,
    limits: ServerLimits,
}

pub struct Listening {
    listener: TcpListener,
    limits: ServerLimits,
}

impl Server {
    pub fn bind(address: SocketAddr, limits: ServerLimits) -> Result<Self> {
        let bind = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // What a gateway before us left in TIME_WAIT does not keep us from its address.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            std::io::Result::Ok(socket)
        };
        let socket = bind().with_context(|| format!("listening on {address} (--listen, GATEWAY_LISTEN)"))?;
        Ok(Self { socket, limits })
    }

    pub fn address(&self) -> Result<SocketAddr> {
        self.socket
            .local_addr()
            .context("reading the address that is listened on")
    }

    pub fn listen(self) -> Result<Listening> {
        let listener = self
            .socket
            .listen(BACKLOG)
            .context("listening (--listen, GATEWAY_LISTEN)")?;
        Ok(Listening {
            listener,
            limits: self.limits,
        })
    }
}

impl Listening {
    /// Serves until `stopping`; then accepts nothing more, lets every request under way be answered (with
    /// `Connection: close`), and returns when the last connection has ended, or all are `cut`.
    pub async fn run(self, router: Router, stopping: CancellationToken, cut: CancellationToken) {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            // The buffer also holds pieces of bodies; it may not be smaller than hyper's least.
            .max_buf_size(self.limits.head_bytes.max(64 * 1024))
            .max_header_size(self.limits.head_bytes);
        let connections = TaskTracker::new();
        let room = std::sync::Arc::new(Semaphore::new(self.limits.connections));
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        while let Some(place) = stopping.run_until_cancelled(room.clone().acquire_owned()).await {
            let Some(accepted) = stopping.run_until_cancelled(self.listener.accept()).await else {
                break;
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff.reset();
                    let serving = serve(
                        http.clone(),
                        stream,
                        peer,
                        router.clone(),
                        stopping.clone(),
                        cut.clone(),
                    );
                    connections.spawn(async move {
                        serving.await;
                        drop(place);
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
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

async fn serve(
    http: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    stopping: CancellationToken,
    cut: CancellationToken,
) {
    // Answers are small and whole: waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, "setting TCP_NODELAY: {error}");
    }
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match cut.run_until_cancelled(connection).await {
                Some(ended) => ended,
                None => return warn!(%peer, "a request under way is cut off: the deadline of the shutdown"),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%peer, "a connection ended: {error}");
    }
}

fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

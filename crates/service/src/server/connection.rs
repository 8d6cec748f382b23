//! One connection: its requests, until the client, a limit or the end of the service closes it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{body::Body as _, body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    ServerLimits, ServerMetrics,
    paced::Paced,
    pulse::{Observed, Pulse, ResponseBody, overdue},
    refused_head::RefusedHeads,
    reply::reply,
};

/// The buffer holds a head, and pieces of bodies. hyper accepts no smaller buffer than its minimum.
const BUFFER_BYTES: usize = 64 * 1024;

/// State that all connections of a port share.
pub(super) struct Serving {
    pub http: http1::Builder,
    pub limits: ServerLimits,
    pub router: Router,
    pub metrics: ServerMetrics,
    /// The address of the documentation of problems.
    pub type_base: Arc<str>,
    pub stopping: CancellationToken,
    pub cut: CancellationToken,
}

impl Serving {
    pub(super) async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        // Responses are small and complete. Waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, "setting TCP_NODELAY: {error}");
        }
        let _open = self.metrics.open();
        let pulse = Arc::new(Pulse::begin());
        let pace = self.limits.body;
        let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
            pulse.asked();
            let (router, pulse, type_base, metrics) =
                (self.router.clone(), pulse.clone(), &self.type_base, &self.metrics);
            let mut request = request.map(|body| match body.is_end_stream() {
                true => Body::empty(),
                false => Body::new(Paced::new(body, pace)),
            });
            request.extensions_mut().insert(ConnectInfo(peer));
            async move {
                let response = reply(router, request, type_base, metrics).await;
                Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, pulse)))
            }
        });
        let observed = TokioIo::new(RefusedHeads::new(
            Observed::new(stream, pulse.clone()),
            self.type_base.clone(),
            self.limits.head_bytes,
        ));
        let mut connection = std::pin::pin!(self.http.serve_connection(observed, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            overdue = overdue(&pulse, &self.limits) => {
                self.metrics.cut(overdue);
                return debug!(%peer, "cut a connection: {overdue}");
            }
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    overdue = overdue(&pulse, &self.limits) => {
                        self.metrics.cut(overdue);
                        return debug!(%peer, "cut a connection: {overdue}");
                    }
                    () = self.cut.cancelled() => {
                        return warn!(%peer, "cut off a request in progress: the shutdown deadline has passed");
                    }
                }
            }
        };
        if let Err(error) = ended {
            debug!(%peer, "a connection ended: {error}");
        }
    }
}

/// hyper's own timeout for heads stays off, because it sets a timer for every request. [`super::pulse`] sets one every few
/// seconds. The header limit stays at hyper's default (100; more is answered `431`), because another limit costs an
/// allocation for each request.
pub(super) fn http(limits: &ServerLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None)
        // A client that sends nothing more may still wait for its response.
        .half_close(true)
        .max_buf_size(limits.head_bytes.max(BUFFER_BYTES))
        .max_header_size(limits.head_bytes);
    http
}

//! What every request gets, whatever it asks for: an id, a problem body where it went wrong, a count, and no panic.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Instant,
};

use axum::http::{HeaderValue, header::CONNECTION};
use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use service::server::request_id;
use tracing::error;

use crate::http::{
    body::leftover,
    client::Client,
    framing,
    gateway::Gateway,
    problem::{Kind, Problem},
    request_metrics::UpstreamTime,
};

/// The server says who connected in [`ConnectInfo`]; the handlers find the [`Client`] in the request's extensions.
pub async fn wrap(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _unanswered = gateway.under_way.begin();
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = connection.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip());
    let client = Client::of(request.headers(), peer, &gateway.settings.trusted_proxies);
    let request_id = client.request_id.clone();

    let framing = framing::check(&request);
    request.extensions_mut().insert(client);
    let (parts, body) = request.into_parts();
    let (body, leftover) = leftover::lend(&parts.headers, body);
    let mut response = match framing {
        Err(problem) => {
            drop(body);
            let mut response = problem.into_response();
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
        Ok(()) => {
            let response = AssertUnwindSafe(next.run(Request::from_parts(parts, body)))
                .catch_unwind()
                .await;
            response.unwrap_or_else(|_| {
                // The panic itself, with its place, is logged by the panic hook.
                error!(
                    request_id = request_id.to_str().unwrap_or_default(),
                    "a request panicked"
                );
                Problem::new(Kind::Internal, "an internal error occurred and was logged").into_response()
            })
        }
    };

    if let Some(upstream) = response.extensions_mut().remove::<UpstreamTime>() {
        gateway.metrics.took(started.elapsed(), upstream);
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        gateway.metrics.problem(problem.kind);
        if let Some(leftover) = leftover {
            leftover.discard().await;
        }
        let request_id = request_id.to_str().unwrap_or_default();
        *response.body_mut() = Body::from(problem.body(request_id, &gateway.settings.upgrade_url));
    }
    response.headers_mut().insert(request_id::X_REQUEST_ID, request_id);
    response
}

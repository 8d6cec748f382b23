//! Handling common to all requests: a request id, a problem body for errors, metrics, and protection from panics.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::http::{HeaderValue, header::CONNECTION};
use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::Response,
};
use problem::Problem;
use service::server::or_internal_error;

use crate::http::{
    body::leftover, client::Client, gateway::Gateway, problem::offers_upgrade, request_metrics::UpstreamTime,
};

/// Reads the peer's address from the server's [`ConnectInfo`]. Handlers find the [`Client`] in the request's extensions.
pub async fn wrap(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _unanswered = gateway.under_way.begin();
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = connection.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip());
    let client = Client::of(request.headers(), peer, &gateway.settings.trusted_proxies);
    let request_id = client.request_id.clone();

    request.extensions_mut().insert(client);
    let (parts, body) = request.into_parts();
    let (body, leftover) = leftover::lend(&parts.headers, body);
    let answer = next.run(Request::from_parts(parts, body));
    let mut response = or_internal_error(&request_id, answer).await;

    if let Some(upstream) = response.extensions_mut().remove::<UpstreamTime>() {
        gateway.metrics.took(started.elapsed(), upstream);
    }
    if let Some(problem) = response.extensions_mut().get_mut::<Problem>() {
        gateway.metrics.problem(problem.kind);
        if offers_upgrade(problem.kind) {
            problem.offer_upgrade(&gateway.settings.upgrade_url);
        }
    }
    if let Some(leftover) = leftover
        && !leftover.finish().await
    {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

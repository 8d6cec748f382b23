//! The gateway's routes: a table of contents.

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{any, get, post},
};

use crate::http::{
    api, edge,
    gateway::Gateway,
    problem::{Kind, Problem},
    proxy,
};

/// Everything on the public port. The server adds [`axum::extract::ConnectInfo`] to each request.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/usage", get(api::summary::show).post(api::usage::record))
        .route("/v1/usage/batch", post(api::usage_batch::record))
        .route("/v1/check", post(api::check::check))
        .route("/v1/authorize", any(api::authorize::decide))
        // Envoy appends the path that it asks about.
        .route("/v1/authorize/{*path}", any(api::authorize::decide))
        .method_not_allowed_fallback(async || Problem::of(Kind::MethodNotAllowed))
        .fallback(proxy::pass)
        .layer(middleware::from_fn_with_state(gateway.clone(), edge::wrap))
        .with_state(gateway)
}

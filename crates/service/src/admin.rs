//! The admin port: `/healthz` (the process answers), `/readyz` (every required part is up), `/metrics` (Prometheus text).

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use problem::{Kind, Problem};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio_util::sync::CancellationToken;

use crate::{
    Health, Lifecycle,
    server::{Server, ServerLimits},
    settings::ServiceSettings,
};

/// The routes that every service has. A service merges its own admin routes into them.
pub fn router(health: Health, mut metrics: Registry) -> Router {
    metrics.register(
        "part_down",
        "1 while a part that the service needs is unavailable: a line of /readyz that is not ok",
        health.down_parts(),
    );
    let metrics = Arc::new(metrics);
    let ready = move || async move {
        let (ready, report) = health.report();
        (
            if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            },
            report,
        )
    };
    let scrape = move || async move {
        let mut text = String::new();
        match encode(&mut text, &metrics) {
            Ok(()) => (
                [(
                    CONTENT_TYPE,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                )],
                text,
            )
                .into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .fallback(async || Problem::of(Kind::UnknownRoute))
        .method_not_allowed_fallback(async || Problem::of(Kind::MethodNotAllowed))
}

/// Binds the admin port.
pub fn bind(settings: &ServiceSettings) -> Result<Server> {
    Server::bind(
        settings.admin_addr,
        "--admin-addr, ADMIN_ADDR",
        ServerLimits::admin(),
        settings,
    )
}

/// Serves until the service has stopped, so that an operator can watch a drain, too.
pub fn serve(life: &Lifecycle, server: Server, router: Router) -> Result<()> {
    let stopping = life.token();
    let listening = server.listen()?;
    life.spawn_vital("admin port", async move {
        listening.run(router, stopping, CancellationToken::new()).await;
        Ok(())
    });
    Ok(())
}

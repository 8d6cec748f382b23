//! The admin port: `/healthz` (the process answers), `/readyz` (every required part is up), `/metrics` (Prometheus text).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

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
    Lifecycle,
    server::{Server, ServerLimits},
    settings::ServiceSettings,
};

/// The parts that must be up for the service to be ready, by name. Each part reports its own state.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<&'static str, State>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// The service does its job without the part, for some time.
    Replaced(String),
    Down(String),
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// Marks the part as up.
    pub fn up(&self, part: &'static str) {
        self.set(part, State::Up);
    }

    /// Marks the part as down, but the service as ready. `how` says how the service works without it.
    pub fn replaced(&self, part: &'static str, how: impl Into<String>) {
        self.set(part, State::Replaced(how.into()));
    }

    /// Marks the part as down. `why` is shown on `/readyz`, so it must not contain a secret.
    pub fn down(&self, part: &'static str, why: impl Into<String>) {
        self.set(part, State::Down(why.into()));
    }

    fn set(&self, part: &'static str, state: State) {
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(part, state);
    }

    /// Whether the service is ready, and a line for each part.
    pub fn report(&self) -> (bool, String) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(part, state): (&&str, &State)| match state {
            State::Up => format!("{part}: ok\n"),
            State::Replaced(text) | State::Down(text) => format!("{part}: {text}\n"),
        };
        let is_down = |state: &State| matches!(state, State::Down(_));
        (
            !parts.is_empty() && !parts.values().any(is_down),
            parts.iter().map(line).collect(),
        )
    }
}

/// The routes that every service has. A service merges its own admin routes into them.
pub fn router(health: Health, metrics: Registry) -> Router {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_when_every_part_is_up() {
        let health = Health::new();
        assert!(!health.report().0, "a service that has not said anything is not ready");
        health.up("nats");
        health.down("postgres", "connecting");
        assert_eq!(health.report(), (false, "nats: ok\npostgres: connecting\n".to_owned()));
        health.up("postgres");
        assert!(health.report().0);
        health.replaced("nats", "unavailable, recording to the spool");
        let report = "nats: unavailable, recording to the spool\npostgres: ok\n";
        assert_eq!(health.report(), (true, report.to_owned()));
    }
}

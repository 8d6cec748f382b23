//! The API behind the demo's gateways: post search, CSV export and sentiment analysis. It represents the business's own
//! service. A request can ask for a status (`X-Demo-Status`) or a delay (`X-Demo-Delay-Ms`), to show which requests are charged.

use std::time::Duration;

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

const DELAY_MAX: Duration = Duration::from_secs(60);

/// Serves until it is dropped.
pub struct Upstream {
    url: String,
    _server: AbortOnDropHandle<std::io::Result<()>>,
}

impl Upstream {
    pub async fn start() -> Result<Self> {
        Self::serve(router()).await
    }

    /// Serves other routes, for a test that needs its own upstream.
    pub async fn serve(router: Router) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("binding the upstream's port")?;
        let url = format!("http://{}", listener.local_addr()?);
        let serve = async move { axum::serve(listener, router).await };
        let server = tokio_util::task::TaskTracker::new().spawn(serve);
        Ok(Self {
            url,
            _server: AbortOnDropHandle::new(server),
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

fn router() -> Router {
    Router::new()
        .route("/api/posts/search", get(search))
        .route("/api/export/posts/csv", get(export).post(export))
        .route("/api/sentiment/analyze-batch", post(analyze))
        .fallback(any(|| async { Json(json!({ "ok": true })) }))
        .layer(from_fn(as_asked))
}

async fn search() -> Json<Value> {
    Json(json!({ "posts": [{ "id": 1, "title": "Usage-based billing, by example" }], "total": 1 }))
}

async fn export() -> Response {
    (
        [(header::CONTENT_TYPE, "text/csv; charset=utf-8")],
        "id,title\n1,\"Usage-based billing, by example\"\n",
    )
        .into_response()
}

#[derive(Deserialize)]
struct Texts {
    texts: Vec<String>,
}

async fn analyze(Json(Texts { texts }): Json<Texts>) -> Json<Value> {
    let score = |text: &String| match text.len() % 3 {
        0 => "negative",
        1 => "neutral",
        _ => "positive",
    };
    Json(json!({ "sentiments": texts.iter().map(score).collect::<Vec<_>>() }))
}

async fn as_asked(request: Request, next: Next) -> Response {
    let number = |headers: &HeaderMap, name: &str| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let (status, delay) = (
        number(request.headers(), "x-demo-status"),
        number(request.headers(), "x-demo-delay-ms"),
    );
    if let Some(delay) = delay {
        tokio::time::sleep(Duration::from_millis(delay).min(DELAY_MAX)).await;
    }
    match status.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok()) {
        Some(status) => (status, next.run(request).await).into_response(),
        None => next.run(request).await,
    }
}

//! The HTTP server of the double: connections and routes.

pub(crate) mod auth;
pub(crate) mod double;
pub(crate) mod edge;
pub(crate) mod faults;
pub(crate) mod idempotency;
pub(crate) mod request;
pub(crate) mod webhooks;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};
use tower::ServiceExt;

use crate::control::over_http;
use crate::pages;
use crate::server::double::{Double, Reset};

/// Does everything that is due, once a second.
pub(crate) async fn tick(double: Arc<Double>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        drop(double.state_now());
        double.wake.notify_one();
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, double: Arc<Double>) {
    let router = Router::new()
        .route("/v1/{*path}", any(request::answer))
        .route("/v2/{*path}", any(request::answer))
        .merge(pages::router())
        .nest("/_double", over_http::router())
        .with_state(double);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, router.clone()))),
                // Probably no file descriptor is free; closing connections free some.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, router: Router) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let twin = Arc::new(stream.try_clone()?); // of the same socket, to set how it closes
    let stream = TcpStream::from_std(stream)?;
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, twin) = (router.clone(), twin.clone());
        async move { answer_or_reset(router, request, &twin).await }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    serving.await.map_err(std::io::Error::other)
}

async fn answer_or_reset(
    router: Router,
    request: Request<Incoming>,
    twin: &std::net::TcpStream,
) -> std::io::Result<Response<Body>> {
    let Ok(response) = router.oneshot(request.map(Body::new)).await;
    if response.extensions().get::<Reset>().is_some() {
        // An error closes the connection; with a linger time of zero that sends a reset.
        TcpStream::from_std(twin.try_clone()?)?.set_zero_linger()?;
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    Ok(response)
}

/// Where to listen: a fixed port, or any free one.
pub(crate) async fn listen(port: Option<u16>) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", port.unwrap_or(0))).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

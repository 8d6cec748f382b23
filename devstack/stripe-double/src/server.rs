//! The double's HTTP side: connections, and what is shared by all who serve them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};
use tower::ServiceExt;

use super::edge::Edge;
use super::state::State;
use super::{advance, api, control_http, pages};

/// What calls, pages, webhooks and the test itself share. The lock of the state is never held across an await, and never
/// together with the one of the edge.
pub(super) struct Double {
    state: Mutex<State>,
    edge: Mutex<Edge>,
    /// There may be something to deliver.
    pub wake: Notify,
    pub api_key: String,
    pub webhook_secret: String,
    /// The second up to which everything due has been done.
    caught_up: AtomicI64,
    calls: AtomicU64,
}

/// In an answer's extensions: reset the connection instead of sending it.
#[derive(Clone, Copy)]
pub(super) struct Reset;

impl Double {
    pub fn new(state: State, edge: Edge, api_key: String, webhook_secret: String) -> Self {
        Self {
            state: Mutex::new(state),
            edge: Mutex::new(edge),
            wake: Notify::new(),
            api_key,
            webhook_secret,
            caught_up: AtomicI64::new(i64::MIN),
            calls: AtomicU64::new(0),
        }
    }

    /// A panic under the lock has failed a test already; the others shall see why, not a poisoned lock.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn edge(&self) -> MutexGuard<'_, Edge> {
        self.edge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with everything done that is due by now.
    pub fn state_now(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        let now = state.now();
        if self.caught_up.swap(now, Ordering::Relaxed) != now {
            advance::catch_up(&mut state);
        }
        state
    }

    pub fn next_request_id(&self) -> String {
        format!("req_{:014}", self.calls.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Every second does what has become due by then.
pub(super) async fn tick(double: Arc<Double>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        drop(double.state_now());
        double.wake.notify_one();
    }
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, double: Arc<Double>) {
    let router = Router::new()
        .route("/v1/{*path}", any(api::answer))
        .route("/v2/{*path}", any(api::answer))
        .merge(pages::router())
        .nest("/_double", control_http::router())
        .with_state(double);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, router.clone()))),
                // Out of descriptors, most likely: closing connections free some.
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
        // An error ends the connection; without lingering that is a reset, not an orderly end.
        TcpStream::from_std(twin.try_clone()?)?.set_zero_linger()?;
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    Ok(response)
}

/// Where to listen: a fixed port, or any free one.
pub(super) async fn listen(port: Option<u16>) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", port.unwrap_or(0))).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

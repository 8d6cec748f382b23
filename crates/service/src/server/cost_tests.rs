//! Measures what the time limits of a connection cost for each of its requests. Run it by hand, before and after a change of
//! `pulse`:
//!
//! ```text
//! cargo test --release -p service --lib --no-run
//! LIMITS=pulse REQUESTS=100000 target/release/deps/service-… --ignored --nocapture cost_tests                 time
//! LIMITS=pulse REQUESTS=… valgrind --tool=callgrind target/release/deps/service-… --ignored cost_tests      instructions
//! ```
//! `LIMITS` is `none`, `pulse`, or `hyper` for hyper's own time limit of heads. Instructions for one request: the difference of
//! two runs, divided by the difference of their `REQUESTS`.

use std::{convert::Infallible, env, sync::Arc, time::Instant};

use axum::body::Body;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    ServerLimits,
    pulse::{Observed, Pulse, ResponseBody, overdue},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n";
const BODY: &str = "0123456789";

/// One connection, which is kept alive for all requests.
#[tokio::test]
#[ignore = "a measurement"]
async fn a_request_on_a_connection_with_time_limits() {
    let requests: u32 = env::var("REQUESTS").map_or(10_000, |text| text.parse().unwrap());
    let limits = env::var("LIMITS").unwrap_or_else(|_| "pulse".to_owned());
    let (client, server) = tokio::io::duplex(64 * 1024);
    let serving = async {
        match limits.as_str() {
            "none" => serve(server, http1::Builder::new().header_read_timeout(None)).await,
            "hyper" => {
                let timeout = ServerLimits::admin().head_timeout;
                let mut http = http1::Builder::new();
                serve(server, http.timer(TokioTimer::new()).header_read_timeout(timeout)).await;
            }
            "pulse" => serve_with_pulse(server).await,
            other => panic!("LIMITS={other}"),
        }
    };
    let began = Instant::now();
    tokio::join!(serving, ask(client, requests));
    println!(
        "{limits}: {} ns for each request",
        (began.elapsed() / requests).as_nanos()
    );
}

async fn serve(server: DuplexStream, http: &http1::Builder) {
    let service = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(Body::from(BODY))));
    http.serve_connection(TokioIo::new(server), service).await.unwrap();
}

/// As [`super::connection`] does.
async fn serve_with_pulse(server: DuplexStream) {
    let (pulse, limits) = (Arc::new(Pulse::begin()), ServerLimits::admin());
    let service = service_fn(async |_: Request<Incoming>| {
        pulse.asked();
        let body = ResponseBody::new(Body::from(BODY), pulse.clone());
        Ok::<_, Infallible>(Response::new(body))
    });
    let mut http = http1::Builder::new();
    let http = http.header_read_timeout(None);
    let observed = TokioIo::new(Observed::new(server, pulse.clone()));
    tokio::select! {
        ended = http.serve_connection(observed, service) => ended.unwrap(),
        overdue = overdue(&pulse, &limits) => panic!("{overdue}"),
    }
}

async fn ask(mut client: DuplexStream, requests: u32) {
    client.write_all(REQUEST).await.unwrap();
    let mut first = Vec::new();
    while !first.ends_with(BODY.as_bytes()) {
        client.read_buf(&mut first).await.unwrap();
    }
    // All responses have the same length.
    let mut response = vec![0; first.len()];
    for _ in 1..requests {
        client.write_all(REQUEST).await.unwrap();
        client.read_exact(&mut response).await.unwrap();
    }
}

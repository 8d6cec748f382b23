//! Slow clients and too many clients: each is limited in time and in number, and other clients are not affected.

mod form;
mod slow;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use devstack::{admin::Customer, upstream::Upstream};
use harness::{Client, Stack, StackOptions, eventually};
use slow::{Slow, percentile};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::SERVICES;

/// A hang must fail a test, not block it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Timeouts and limits that a test can wait for.
fn short() -> Vec<(&'static str, String)> {
    [
        ("HEAD_TIMEOUT", "0.6"),
        ("IDLE_TIMEOUT", "1.5"),
        ("BODY_TIMEOUT", "0.5"),
        ("ANSWER_TIMEOUT", "0.8"),
        ("CONNECTIONS_PER_ADDRESS", "40"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

async fn stack(upstream: &Upstream) -> Result<Stack> {
    let options = StackOptions {
        upstream_url: Some(upstream.url().to_owned()),
        gateway_env: short(),
        billing_env: short(),
        ..StackOptions::default()
    };
    Stack::start(SERVICES, options).await
}

/// An upstream with a response that is larger than all socket buffers.
async fn upstream() -> Result<Upstream> {
    let large = get(async || vec![b'x'; 64 << 20]);
    let upload = post(async |body: Bytes| body.len().to_string());
    let router = Router::new().route("/api/large", large).route("/api/upload", upload);
    let router = router.fallback(async || "ok");
    Upstream::serve(router).await
}

async fn connect(url: &str) -> Result<TcpStream> {
    Ok(TcpStream::connect(address(url)?).await?)
}

fn address(url: &str) -> Result<SocketAddr> {
    Ok(url.strip_prefix("http://").context("not an http URL")?.parse()?)
}

/// Everything that the server sends until it closes the connection. A reset counts as a close.
async fn until_closed(stream: &mut TcpStream) -> Result<String> {
    let mut said = Vec::new();
    let reading = async { while let Ok(1..) = stream.read_buf(&mut said).await {} };
    timeout(PATIENCE, reading).await.context("the connection stays open")?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn request(customer: &Customer, method: &str, path: &str, headers: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: a.example\r\nauthorization: Bearer {}\r\n{headers}\r\n",
        customer.key
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_sending_is_cut_off() {
    let upstream = upstream().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("eve", "pro").await.unwrap();
    for url in [stack.gateway(0), &stack.billing_url] {
        // No byte at all; a part of a head; a head that arrives byte by byte.
        for begun in ["", "GET /api/x HTTP/1.1\r\nhost: a"] {
            let opened = Instant::now();
            let mut stream = connect(url).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            let said = until_closed(&mut stream).await.unwrap();
            let after = opened.elapsed();
            assert_eq!(said, "", "{url} {begun:?}");
            assert!(after > Duration::from_millis(300), "{url} {begun:?}: {after:?}");
        }
        let mut stream = connect(url).await.unwrap();
        let began = Instant::now();
        while stream.write_all(b"a").await.is_ok() {
            assert!(
                began.elapsed() < PATIENCE,
                "{url}: the server never stops reading an endless head"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }

        // An idle connection between two requests.
        let opened = Instant::now();
        let mut stream = connect(url).await.unwrap();
        let whole = request(&customer, "GET", "/billing/plans", "");
        stream.write_all(whole.as_bytes()).await.unwrap();
        let said = until_closed(&mut stream).await.unwrap();
        let after = opened.elapsed();
        assert!(
            said.starts_with("HTTP/1.1 ") && said.matches("HTTP/1.1 ").count() == 1,
            "{url}: {said}"
        );
        assert!(after > Duration::from_secs(1), "{url}: {after:?}");
    }
    stack.assert_stored(customer.account_id, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_or_trickles_is_answered_408_and_not_charged() {
    let upstream = upstream().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("eve", "pro").await.unwrap();
    const JSON: &str = "content-type: application/json\r\ncontent-length: 1000\r\n";
    let (gateway, billing) = (stack.gateway(0), stack.billing_url.as_str());
    for (url, path) in [
        (gateway, "/v1/usage"),
        (gateway, "/api/sentiment/analyze-batch"),
        (gateway, "/api/upload"),
        (billing, "/billing/upgrade"),
        (billing, "/billing/webhooks/stripe"),
    ] {
        let mut stopped = connect(url).await.unwrap();
        stopped
            .write_all(request(&customer, "POST", path, JSON).as_bytes())
            .await
            .unwrap();
        stopped.write_all(b"{").await.unwrap();
        let said = until_closed(&mut stopped).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 408 "), "{path}: {said}");
        assert!(said.contains("\"error\":\"body_timeout\""), "{path}: {said}");

        let mut trickling = connect(url).await.unwrap();
        trickling
            .write_all(request(&customer, "POST", path, JSON).as_bytes())
            .await
            .unwrap();
        let mut said = Vec::new();
        let began = Instant::now();
        // Each byte arrives in time, but all of them together take too long.
        while !said.starts_with(b"HTTP/1.1 408 ") || said.len() < 100 {
            assert!(
                began.elapsed() < PATIENCE,
                "{path}: the server waits for each byte of a body"
            );
            trickling.write_all(b" ").await.ok();
            match timeout(Duration::from_millis(100), trickling.read_buf(&mut said)).await {
                Ok(Ok(1..)) | Err(_) => {}
                Ok(end) => panic!("{path}: {end:?} after {:?}", String::from_utf8_lossy(&said)),
            }
        }
    }
    let client = Client::new(stack.gateway(0), &customer);
    assert_eq!(client.spend("api_call", 1).await.unwrap().status, 200);
    let units = eventually("the charged request is stored", async || {
        let sums = stack.sums(customer.account_id).await.ok()?;
        (sums.units > 0).then_some(sums.units)
    })
    .await;
    assert_eq!(units, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_response_is_cut_off() {
    let upstream = upstream().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("eve", "pro").await.unwrap();
    let mut stream = connect(stack.gateway(0)).await.unwrap();
    stream
        .write_all(request(&customer, "GET", "/api/large", "").as_bytes())
        .await
        .unwrap();
    eventually("the gateway has cut the connection", async || {
        let cut = "gateway_connections_cut_total{overdue=\"answer\"}";
        let cut = stack.gateways[0].service.metric::<u64>(cut).await.ok()?;
        (cut == 1).then_some(())
    })
    .await;
    let said = until_closed(&mut stream).await.unwrap();
    assert!(
        said.starts_with("HTTP/1.1 200 ") && said.len() < 64 << 20,
        "{} bytes",
        said.len()
    );
    // The upstream has responded, so the request is charged.
    stack.assert_stored(customer.account_id, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_or_has_too_many_lines_is_answered_431() {
    let upstream = upstream().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("eve", "pro").await.unwrap();
    let admin = stack.gateways[0].service.admin_url();
    let long = |bytes: usize| format!("x-long: {}\r\n", "x".repeat(bytes));
    for (url, headers, says) in [
        (stack.gateway(0), long(40_000), "less than 32768 bytes"),
        // The default is less than the longest URI.
        (stack.gateway(0), long(70_000), "less than 32768 bytes"),
        (stack.gateway(0), "x-many: 1\r\n".repeat(120), "at most 100 headers"),
        (&stack.billing_url, long(40_000), "less than 32768 bytes"),
        (&admin, long(20_000), "less than 16384 bytes"),
        (
            &admin,
            "content-length: 18446744073709551615\r\n".to_owned(),
            "Content-Length",
        ),
    ] {
        let mut stream = connect(url).await.unwrap();
        stream
            .write_all(request(&customer, "GET", "/api/x", &headers).as_bytes())
            .await
            .unwrap();
        let said = until_closed(&mut stream).await.unwrap();
        assert!(
            said.starts_with("HTTP/1.1 431 ") && said.contains(says),
            "{url}: {said}"
        );
    }
    stack.assert_stored(customer.account_id, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_an_address_are_limited_and_others_are_still_served() {
    let upstream = upstream().await.unwrap();
    let options = StackOptions {
        upstream_url: Some(upstream.url().to_owned()),
        gateway_env: vec![
            ("CONNECTIONS_PER_ADDRESS", "40".into()),
            ("TRUSTED_PROXIES", "127.0.0.9".into()),
        ],
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let customer = stack.admin.customer("eve", "pro").await.unwrap();
    let gateway = address(stack.gateway(0)).unwrap();
    let from = async |source: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        socket.connect(gateway).await.unwrap()
    };
    let whole = request(&customer, "GET", "/api/x", "");
    // Whether a new connection is served.
    let served = async |source: &str| {
        let mut stream = from(source).await;
        stream.write_all(whole.as_bytes()).await.ok();
        let mut said = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut said)).await.unwrap().is_ok() && said == *b"HTTP/1.1 200"
    };
    let mut greedy = Vec::new();
    for _ in 0..40 {
        greedy.push(from("127.0.0.2").await);
    }
    eventually("the address has reached its connection limit", async || {
        (!served("127.0.0.2").await).then_some(())
    })
    .await;
    assert!(served("127.0.0.3").await, "another address");
    let mut proxied = Vec::new();
    for _ in 0..60 {
        proxied.push(from("127.0.0.9").await);
    }
    assert!(served("127.0.0.9").await, "a trusted proxy");
    drop(greedy);
    eventually("connections of the address are accepted again", async || {
        served("127.0.0.2").await.then_some(())
    })
    .await;
}

/// Measures the time of a request, alternating without and with slow connections.
async fn compare(
    stack: &Stack,
    customer: &Customer,
    slow: usize,
    rounds: usize,
    requests: usize,
) -> (Duration, Duration) {
    let gateway = address(stack.gateway(0)).unwrap();
    let client = Client::new(stack.gateway(0), customer);
    let measure = async || {
        let workers = (0..4).map(async |_| {
            let mut times = Vec::with_capacity(requests);
            for _ in 0..requests {
                let began = Instant::now();
                assert_eq!(client.get("/api/x").await.unwrap().status, 200);
                times.push(began.elapsed());
            }
            times
        });
        let times: Vec<_> = futures_util::future::join_all(workers)
            .await
            .into_iter()
            .flatten()
            .collect();
        percentile(times, 0.99)
    };
    measure().await;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        without.push(measure().await);
        let crowd = Slow::start(gateway, slow);
        let open = async || (crowd.open() >= slow * 9 / 10).then_some(());
        eventually("the slow connections are open", open).await;
        with.push(measure().await);
        println!(
            "p99 of other requests: {:.2?} without, {:.2?} with {} slow connections ({} were cut)",
            without[without.len() - 1],
            with[with.len() - 1],
            crowd.open(),
            crowd.cut()
        );
        drop(crowd);
    }
    (percentile(without, 0.5), percentile(with, 0.5))
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_slow_connections_do_not_block_other_clients() {
    let upstream = upstream().await.unwrap();
    let options = StackOptions {
        upstream_url: Some(upstream.url().to_owned()),
        gateway_env: vec![("HEAD_TIMEOUT", "1".into()), ("CONNECTIONS_MAX", "400".into())],
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let customer = stack.admin.customer("ada", "enterprise").await.unwrap();
    // This test does not check the speed, which depends on the machine. The command below measures it.
    compare(&stack, &customer, 300, 1, 50).await;
}

/// `cargo test --release -p tests --test e2e -- --ignored five_thousand --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: needs an otherwise idle machine"]
async fn five_thousand_slow_connections_at_most_double_the_time_of_other_requests() {
    service::open_files::raise(12_000);
    let upstream = upstream().await.unwrap();
    let options = StackOptions {
        upstream_url: Some(upstream.url().to_owned()),
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let customer = stack.admin.customer("ada", "enterprise").await.unwrap();
    let (without, with) = compare(&stack, &customer, 5_000, 5, 1_000).await;
    println!(
        "median p99: {without:.2?} without, {with:.2?} with, {:.2} times",
        with.as_secs_f64() / without.as_secs_f64()
    );
    assert!(with <= without * 2, "{with:?} is more than twice {without:?}");
}

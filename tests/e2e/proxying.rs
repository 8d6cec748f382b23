//! The metered reverse proxy with an upstream that fails in every way: a request that was not served is not charged, a served
//! one is charged, even if the client hangs up in between.

mod closing;

use std::sync::Arc;

use anyhow::Result;
use devstack::http::{Http, request};
use harness::{Stack, StackOptions, eventually};
use http::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::SERVICES;

/// An upstream that answers with raw bytes. The path selects the response.
struct Upstream {
    url: String,
    /// Requests that have arrived.
    reached: Arc<Semaphore>,
    /// Each permit releases the response to one held request.
    release: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Upstream {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let upstream = Self {
            url: format!("http://{}", listener.local_addr()?),
            reached: Arc::new(Semaphore::new(0)),
            release: Arc::new(Semaphore::new(0)),
            stop: CancellationToken::new(),
        };
        let (reached, release, stop) = (
            upstream.reached.clone(),
            upstream.release.clone(),
            upstream.stop.clone(),
        );
        TaskTracker::new().spawn(stop.clone().run_until_cancelled_owned(async move {
            let connections = TaskTracker::new();
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serve(stream, reached.clone(), release.clone());
                connections.spawn(stop.clone().run_until_cancelled_owned(serving));
            }
        }));
        Ok(upstream)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(mut stream: TcpStream, reached: Arc<Semaphore>, release: Arc<Semaphore>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    reached.add_permits(1);
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let answer = match path {
        "/api/garbage" => "GARBAGE\r\n\r\n".to_owned(),
        "/api/close" => String::new(),
        "/api/switch" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_owned(),
        "/api/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this".to_owned(),
        "/api/cut-chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n".to_owned(),
        "/api/slow" => {
            std::future::pending::<()>().await;
            String::new()
        }
        "/api/held" => {
            release.acquire().await.map(SemaphorePermit::forget).ok();
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()
        }
        // Reads no body before it answers.
        "/api/early" | "/api/early-and-reads" => {
            "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n\r\nlarge".to_owned()
        }
        // Echoes the head of the request.
        _ => format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Own: 1\r\n\r\n{head}",
            head.len()
        ),
    };
    // If the gateway has given up, this is not a failure of the upstream.
    stream.write_all(answer.as_bytes()).await.ok();
    stream.shutdown().await.ok();
    if path == "/api/early-and-reads" {
        // A connection that is closed with unread bytes is reset, and the answer may be lost.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    }
}

async fn stack(upstream: &Upstream) -> Result<Stack> {
    let options = StackOptions {
        upstream_url: Some(upstream.url.clone()),
        gateway_env: vec![("UPSTREAM_ANSWER_TIMEOUT", "1".to_owned())],
        ..StackOptions::default()
    };
    Stack::start(SERVICES, options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_failures_have_distinct_errors_and_are_not_charged() {
    let upstream = Upstream::start().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("ada", "free").await.unwrap();
    let http = Http::default();
    let get = async |path: &str| {
        http.get(&format!("{}{path}", stack.gateway(0)), &customer.key)
            .await
            .unwrap()
    };
    for (path, status, error) in [
        ("/api/garbage", 502, "upstream_invalid_response"),
        ("/api/close", 502, "upstream_invalid_response"),
        ("/api/switch", 502, "upstream_invalid_response"),
        ("/api/slow", 504, "upstream_timeout"),
    ] {
        let answer = get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.json().unwrap()["error"], error, "{path}");
        assert!(answer.header("usage-event-id").is_some(), "{path}");
    }
    drop(upstream);
    // Until the port is closed, a connection may still be accepted and dropped. The error is then an invalid response, not an
    // unreachable upstream.
    let answer = eventually("the upstream is down", async || {
        let answer = get("/api/down").await;
        (answer.json().ok()?["error"] == "upstream_unreachable").then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 502);

    let last = answer.header("usage-event-id").unwrap().to_owned();
    let failed = eventually("the failures are stored", async || {
        let query = "select toString(event_id), status, cost_units from usage_events where account_id = ?";
        let rows = stack.clickhouse.query(query).bind(customer.account_id.0.to_string());
        let rows: Vec<(String, u16, i64)> = rows.fetch_all().await.ok()?;
        // The events of an account are stored in order, so when the last one is stored, all are.
        let all = rows.iter().any(|(event_id, ..)| *event_id == last);
        all.then(|| {
            rows.into_iter()
                .map(|(_, status, cost)| (status, cost))
                .collect::<Vec<_>>()
        })
    })
    .await;
    assert!(
        failed.iter().filter(|(status, _)| *status >= 500).count() >= 5,
        "{failed:?}"
    );
    assert!(
        failed
            .iter()
            .all(|(status, cost_units)| (*status < 400) == (*cost_units > 0)),
        "{failed:?}"
    );
    let summary = http
        .get(&format!("{}/v1/usage", stack.gateway(0)), &customer.key)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let charged = failed.iter().filter(|(_, cost_units)| *cost_units > 0).count();
    assert_eq!(summary["usage"][0]["current_usage"], json!(charged), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_upstream_cuts_off_arrives_broken_and_is_charged() {
    let upstream = Upstream::start().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("ada", "free").await.unwrap();
    for path in ["/api/cut", "/api/cut-chunked"] {
        let cut = Http::default()
            .get(&format!("{}{path}", stack.gateway(0)), &customer.key)
            .await;
        assert!(cut.is_err(), "{path}: {cut:?} looks complete");
    }
    stack.assert_stored(customer.account_id, 2, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_charged_although_its_client_hangs_up_while_the_upstream_works() {
    let upstream = Upstream::start().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("ada", "free").await.unwrap();
    let request = request(
        Method::GET,
        &format!("{}/api/held", stack.gateway(0)),
        &customer.key,
        None,
    )
    .unwrap();
    {
        let http = Http::default();
        let mut leaving = std::pin::pin!(http.send(request));
        tokio::select! {
            answer = &mut leaving => panic!("answered before the upstream responded: {answer:?}"),
            held = upstream.reached.acquire() => held.unwrap().forget(),
        }
    }
    upstream.release.add_permits(1);
    stack.assert_stored(customer.account_id, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_learns_the_account_and_never_the_key() {
    let upstream = Upstream::start().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("ada", "free").await.unwrap();
    let mut request = request(
        Method::GET,
        &format!("{}/api/echo?q=1", stack.gateway(0)),
        &customer.key,
        None,
    )
    .unwrap();
    for (name, value) in [
        ("x-request-id", "mine-1"),
        ("x-trendit-account", "another"),
        ("x-forwarded-for", "6.6.6.6"),
        ("connection", "x-secret"),
        ("x-secret", "1"),
        ("te", "trailers"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = Http::default().send(request).await.unwrap();
    let sent = String::from_utf8_lossy(&answer.body).to_lowercase();
    for line in [
        "get /api/echo?q=1 http/1.1",
        &format!("x-trendit-account: {}", customer.account_id),
        "x-request-id: mine-1",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        &format!("host: {}", upstream.url.trim_start_matches("http://")),
    ] {
        assert!(sent.lines().any(|sent| sent == line), "no `{line}` in\n{sent}");
    }
    for absent in [
        "authorization",
        "tr_live_",
        "6.6.6.6",
        "x-secret",
        "another",
        "trailers",
    ] {
        assert!(!sent.contains(absent), "`{absent}` in\n{sent}");
    }
    assert_eq!(answer.header("x-own"), Some("1"));
    assert_eq!(answer.header("x-hop"), None);
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    assert!(answer.header("ratelimit").unwrap().starts_with("\"api_call\";r="));
    assert!(
        answer
            .header("ratelimit-policy")
            .unwrap()
            .starts_with("\"api_call\";q=100;w=")
    );
}

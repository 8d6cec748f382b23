//! Request smuggling: bytes that two parsers could read as different requests. Whatever a client sends, the upstream gets only
//! well-framed requests, each of them is counted, and none is hidden in another.

mod upstream;
pub(crate) mod wire;

use anyhow::{Context, Result, anyhow, bail, ensure};
use devstack::admin::Customer;
use harness::{Stack, StackOptions, eventually};
use upstream::{Request, Upstream};
use wire::Wire;

use crate::SERVICES;

/// Placeholders in the bytes of a case: `{path}` is a unique path, `{host}` and `{key}` are headers that a request needs,
/// and `{inner}` is a whole request that must never reach the upstream.
struct Case {
    name: &'static str,
    sends: &'static str,
    /// The statuses of the responses, in order.
    answers: &'static [u16],
    /// Whether the connection stays open.
    then: Then,
    /// The requests that the upstream receives: `METHOD target body`.
    upstream: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Open,
    Closed,
    /// The connection is closed, or still expects the announced body. Then the next bytes are read as that body, and the rest
    /// is refused.
    Refused,
}

use Then::{Closed, Open, Refused};

const INNER: &str = "GET /api/smuggled HTTP/1.1\r\n{host}{key}\r\n";

macro_rules! cases {
    ($($name:literal: $sends:literal => $answers:expr, $then:ident, $upstream:expr;)*) => {
        &[$(Case { name: $name, sends: $sends, answers: &$answers, then: $then, upstream: &$upstream }),*]
    };
}

/// Two lengths, or a length and a coding.
const LENGTHS: &[Case] = cases! {
    "a length, as it should be":
        "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 3\r\n\r\nabc" => [200], Open, ["POST {path} abc"];
    "chunks, as they should be":
        "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        => [200], Open, ["POST {path} abc"];
    // RFC 9112, 6.3: the coding takes precedence and the connection ends, so nothing reads the bytes that follow.
    "a length and a coding":
        "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        => [200], Closed, ["POST {path} "];
    "a coding and a length":
        "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n3\r\nabc\r\n0\r\n\r\n{inner}"
        => [200], Closed, ["POST {path} abc"];
    "a coding and an invalid length":
        "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n{inner}"
        => [200], Closed, ["POST {path} "];
    "the same length twice":
        "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" => [200], Open, ["POST {path} abc"];
    "two lengths": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc" => [400], Closed, [];
    "two lengths, the other way": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 0\r\nContent-Length: 99\r\n\r\n{inner}" => [400], Closed, [];
    "a list of lengths": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 3, 3\r\n\r\nabc" => [400], Closed, [];
    "a length with a sign": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: +3\r\n\r\nabc" => [400], Closed, [];
    "a negative length": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: -1\r\n\r\nabc" => [400], Closed, [];
    "a hexadecimal length": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 0x3\r\n\r\nabc" => [400], Closed, [];
    "an empty length": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length:\r\n\r\nabc" => [400], Closed, [];
    "a length of two numbers": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 3 3\r\n\r\nabc" => [400], Closed, [];
    "a length beyond 64 bits": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 18446744073709551619\r\n\r\nabc" => [400], Closed, [];
    "the largest length": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 18446744073709551615\r\n\r\nabc" => [431], Closed, [];
    "a body of a GET": "GET {path} HTTP/1.1\r\n{host}{key}Content-Length: 3\r\n\r\nabc" => [200], Open, ["GET {path} abc"];
    "more than the length": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 1\r\n\r\na\u{0}c" => [200, 400], Closed, ["POST {path} a"];
};

const CODINGS: &[Case] = cases! {
    "an unknown coding": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "a coding after chunked": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "a coding before chunked": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" => [400], Closed, [];
    "chunked twice": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" => [400], Closed, [];
    "two codings": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" => [400], Closed, [];
    "two codings, the other way": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "a quoted coding": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "an empty coding": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc" => [400], Closed, [];
    "a coding in HTTP/1.0": "POST {path} HTTP/1.0\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "a coding and a length in HTTP/1.0":
        "POST {path} HTTP/1.0\r\n{host}{key}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc" => [400], Closed, [];
    "a length in HTTP/1.0": "POST {path} HTTP/1.0\r\n{host}{key}Content-Length: 3\r\n\r\nabc{inner}" => [200], Closed, ["POST {path} abc"];
    "a tab before a coding": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" => [200], Open, ["POST {path} "];
    "a vertical tab before a coding": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "an imitated length": "POST {path} HTTP/1.1\r\n{host}{key}Content_Length: 99\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc"
        => [200], Open, ["POST {path} abc"];
};

/// White space, line ends and bytes where none belong.
const BYTES: &[Case] = cases! {
    "a space before the colon": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "a tab before the colon": "POST {path} HTTP/1.1\r\n{host}{key}Content-Length\t: 3\r\n\r\nabc" => [400], Closed, [];
    "a space before the name": "POST {path} HTTP/1.1\r\n{host}{key} Content-Length: 3\r\n\r\nabc" => [400], Closed, [];
    "a folded line": "POST {path} HTTP/1.1\r\n{host}{key}X-A: 1\r\n Transfer-Encoding: chunked\r\n\r\n" => [400], Closed, [];
    "a folded coding": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "a name of nothing": "GET {path} HTTP/1.1\r\n{host}{key}: x\r\n\r\n" => [400], Closed, [];
    "a line without a colon": "GET {path} HTTP/1.1\r\n{host}{key}X-A\r\n\r\n" => [400], Closed, [];
    "a carriage return in a value": "POST {path} HTTP/1.1\r\n{host}{key}X-A: 1\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "a null byte in a value": "GET {path} HTTP/1.1\r\n{host}{key}X-A: 1\u{0}2\r\n\r\n" => [400], Closed, [];
    "a null byte in a name": "GET {path} HTTP/1.1\r\n{host}{key}X\u{0}A: 1\r\n\r\n" => [400], Closed, [];
    "a space in the method": "GE T {path} HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "a space in the target": "GET {path} /x HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "a tab for a space": "GET\t{path} HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "two spaces": "GET  {path} HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "a request line of nothing": " {path} HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "an empty line before the request": "\r\nGET {path} HTTP/1.1\r\n{host}{key}\r\n" => [200], Open, ["GET {path} "];
    // RFC 9112, 2.2: a line feed alone may end a line. The text after it is then a header for every later reader.
    "line feeds alone": "GET {path} HTTP/1.1\nHost: a.example\nAuthorization: Bearer {secret}\n\n" => [200], Open, ["GET {path} "];
    "a coding behind a line feed":
        "POST {path} HTTP/1.1\r\n{host}{key}Content-Length: 5\r\nX-A: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        => [200], Closed, ["POST {path} "];
};

/// The request target and the host.
const TARGETS: &[Case] = cases! {
    "no host": "GET {path} HTTP/1.1\r\n{key}\r\n" => [400], Closed, [];
    "two hosts": "GET {path} HTTP/1.1\r\n{host}Host: b.example\r\n{key}\r\n" => [400], Closed, [];
    "the same host twice": "GET {path} HTTP/1.1\r\n{host}{host}{key}\r\n" => [400], Closed, [];
    "a list of hosts": "GET {path} HTTP/1.1\r\nHost: a.example, b.example\r\n{key}\r\n" => [400], Closed, [];
    "a host with a path": "GET {path} HTTP/1.1\r\nHost: a.example/x\r\n{key}\r\n" => [400], Closed, [];
    "no host in HTTP/1.0": "GET {path} HTTP/1.0\r\n{key}\r\n" => [200], Closed, ["GET {path} "];
    "a URL": "GET http://a.example{path} HTTP/1.1\r\n{host}{key}\r\n" => [200], Open, ["GET {path} "];
    "a URL of another host": "GET http://b.example{path} HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "a URL of another scheme": "GET ftp://a.example{path} HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "a URL with a user": "GET http://u@a.example{path} HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "a target that is no path": "OPTIONS * HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "a tunnel": "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n{key}\r\n{inner}" => [400], Closed, [];
    "a tunnel with a path": "CONNECT {path} HTTP/1.1\r\n{host}{key}\r\n{inner}" => [400], Closed, [];
    "a tunnel with a URL": "CONNECT http://a.example{path} HTTP/1.1\r\n{host}{key}\r\n{inner}" => [400], Closed, [];
    "an echo": "TRACE {path} HTTP/1.1\r\n{host}{key}\r\n" => [400], Closed, [];
    "HTTP/0.9": "GET {path}\r\n" => [400], Closed, [];
    "HTTP/1.2": "GET {path} HTTP/1.2\r\n{host}{key}\r\n" => [400], Closed, [];
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" => [], Closed, [];
    "two requests in sequence":
        "GET {path} HTTP/1.1\r\n{host}{key}\r\nPOST {path}/2 HTTP/1.1\r\n{host}{key}Content-Length: 1\r\n\r\na"
        => [200, 200], Open, ["GET {path} ", "POST {path}/2 a"];
    "a request behind one without a key":
        "POST {path} HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\nabcGET {path}/2 HTTP/1.1\r\n{host}{key}\r\n"
        => [401, 200], Open, ["GET {path}/2 "];
};

const CHUNKS: &[Case] = cases! {
    "an extension": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n" => [200], Open, ["POST {path} abc"];
    "trailers":
        "POST {path} HTTP/1.1\r\n{host}{key}TE: trailers\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-A: 1\r\nContent-Length: 99\r\nX-Trendit-Account: me\r\n\r\n"
        => [200], Open, ["POST {path} abc"];
    "a negative size": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n" => [400], Closed, [];
    "a size with a sign": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n" => [400], Closed, [];
    "a size with 0x": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" => [400], Closed, [];
    "no size": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n" => [400], Closed, [];
    "a size beyond 64 bits": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n" => [400], Closed, [];
    "a chunk that is longer than its size": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" => [400], Closed, [];
    "a size that ends in a line feed": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n" => [400], Closed, [];
    "a line feed in an extension":
        "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n{inner}" => [400], Closed, [];
    "an invalid trailer": "POST {path} HTTP/1.1\r\n{host}{key}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{inner}" => [400], Closed, [];
};

/// Hop-by-hop headers and protocol changes.
const HOPS: &[Case] = cases! {
    "a header that Connection names": "GET {path} HTTP/1.1\r\n{host}{key}Connection: close, X-Hop\r\nX-Hop: 1\r\n\r\n" => [200], Closed, ["GET {path} "];
    "Connection names the length": "POST {path} HTTP/1.1\r\n{host}{key}Connection: Content-Length\r\nContent-Length: 3\r\n\r\nabc" => [200], Open, ["POST {path} abc"];
    "Connection names the coding":
        "POST {path} HTTP/1.1\r\n{host}{key}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" => [200], Open, ["POST {path} abc"];
    "Connection names what the gateway says": "GET {path} HTTP/1.1\r\n{host}{key}Connection: X-Trendit-Account, X-Forwarded-For, X-Request-Id\r\n\r\n" => [200], Open, ["GET {path} "];
    "Connection names the key": "GET {path} HTTP/1.1\r\n{host}{key}Connection: Authorization\r\n\r\n" => [200], Open, ["GET {path} "];
    "h2c is offered":
        "GET {path} HTTP/1.1\r\n{host}{key}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" => [200], Open, ["GET {path} "];
    "a WebSocket is asked for": "GET {path} HTTP/1.1\r\n{host}{key}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n" => [501], Open, [];
    "a body is announced": "POST {path} HTTP/1.1\r\n{host}{key}Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" => [100, 200], Open, ["POST {path} abc"];
    "a body is announced without a key": "POST {path} HTTP/1.1\r\n{host}Expect: 100-continue\r\nContent-Length: 3\r\n\r\n" => [401], Refused, [];
    "an unknown expectation": "POST {path} HTTP/1.1\r\n{host}{key}Expect: miracles\r\nContent-Length: 3\r\n\r\nabc" => [200], Open, ["POST {path} abc"];
};

/// Headers that never reach the upstream.
const NEVER_PASSED: &[&str] = &[
    "authorization",
    "connection",
    "content_length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer_encoding",
    "upgrade",
    "x-hop",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_request_hides_in_another_and_each_forwarded_request_is_counted() {
    let upstream = Upstream::start().await.unwrap();
    let options = StackOptions {
        upstream_url: Some(upstream.url.clone()),
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let customer = stack.admin.customer("eve", "enterprise").await.unwrap();
    let cases: Vec<&Case> = [LENGTHS, CODINGS, BYTES, TARGETS, CHUNKS, HOPS]
        .into_iter()
        .flatten()
        .collect();
    let mut served = 0;
    let mut wrong = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        match check(case, n, stack.gateway(0), &customer, &upstream).await {
            Ok(requests) => served += requests,
            Err(why) => wrong.push(format!("{}: {why:#}", case.name)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );

    // Each request that the upstream answered costs one unit, and nothing else is charged.
    let charged = eventually("all of them are stored", async || {
        let query = "select toUInt64(countIf(cost_units > 0)) as charged, toUInt64(sum(cost_units)) as units,
                            toUInt64(countIf(endpoint = '/api/smuggled')) as smuggled
                     from usage_events where account_id = ?";
        let counts = stack.clickhouse.query(query).bind(customer.account_id.0.to_string());
        let counts: (u64, u64, u64) = counts.fetch_one().await.ok()?;
        (counts.0 >= served).then_some(counts)
    })
    .await;
    assert_eq!(charged, (served, served, 0));
}

/// Sends the bytes of a case. Returns the number of requests that the upstream answered, or an error that describes the
/// difference.
async fn check(case: &Case, n: usize, gateway: &str, customer: &Customer, upstream: &Upstream) -> Result<u64> {
    let path = format!("/api/case-{n}");
    let filled = |text: &str| {
        text.replace("{inner}", INNER)
            .replace("{path}", &path)
            .replace("{host}", "Host: a.example\r\n")
            .replace("{key}", "Authorization: Bearer {secret}\r\n")
            .replace("{secret}", &customer.key)
    };
    let mut wire = Wire::connect(gateway).await?;
    wire.send(filled(case.sends).as_bytes()).await;
    let mut answers = Vec::new();
    for _ in case.answers {
        let answer = wire.answer().await.with_context(|| format!("after {answers:?}"))?;
        answers.extend(answer);
    }
    if answers != case.answers {
        bail!("answered {answers:?}, not {:?}", case.answers);
    }
    // A probe at the end: bytes left over from the case would be answered, or would be read as part of the probe.
    wire.send(filled("GET /api/probe HTTP/1.1\r\n{host}{key}\r\n").as_bytes())
        .await;
    let probed = wire.answer().await?;
    let seen = upstream.take();
    let mut expected: Vec<_> = case.upstream.iter().map(|text| filled(text)).collect();
    match (case.then, probed) {
        (Open, Some(200)) => expected.push("GET /api/probe ".to_owned()),
        (Closed, None) | (Refused, None | Some(400)) => {}
        (_, probed) => bail!("the next request was answered {probed:?}"),
    }
    let mut received = Vec::new();
    for request in seen {
        let request = request.map_err(|why| anyhow!("the upstream: {why}"))?;
        if let Some(why) = foreign(&request, customer) {
            bail!("the upstream got {why}: {request:?}");
        }
        let body = String::from_utf8_lossy(&request.body).into_owned();
        received.push(format!("{} {} {body}", request.method, request.target));
    }
    ensure!(received == expected, "the upstream saw {received:?}, not {expected:?}");
    Ok(received.len() as u64)
}

/// Something that the upstream should not get, or that is missing or repeated.
fn foreign(request: &Request, customer: &Customer) -> Option<String> {
    for (name, value) in &request.headers {
        let name = name.to_ascii_lowercase();
        if NEVER_PASSED.contains(&name.as_str()) || value.contains(&customer.key) || value.contains("smuggled") {
            return Some(format!("the header {name}"));
        }
    }
    let all = |wanted: &str| -> Vec<&str> {
        let named = request
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| value.as_str()).collect()
    };
    if all("x-trendit-account") != [customer.account_id.to_string()] {
        return Some("not exactly our account header".to_owned());
    }
    (all("x-forwarded-for") != ["127.0.0.1"] || all("x-request-id").len() != 1)
        .then(|| "not exactly our origin headers".to_owned())
}

//! The form of responses on every port of every service: a request id, and a problem body for each error. This includes the
//! responses that hyper writes before a request reaches a router.

use anyhow::{Context, Result};
use devstack::http::{Http, request};
use harness::{Stack, StackOptions};
use http::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::{connect, until_closed};
use crate::SERVICES;

/// Larger than the longest URI (65,534 bytes). Otherwise a long URI makes the head too large, which is another error.
const HEAD_BYTES_MAX: usize = 100_000;

/// Sends bytes until the server closes the connection, and returns the head of its response in lower case, and the body.
async fn exchange(url: &str, bytes: &str) -> Result<(String, Value)> {
    let mut stream = connect(url).await?;
    // The server may respond and close the connection before it has read everything.
    stream.write_all(bytes.as_bytes()).await.ok();
    let said = until_closed(&mut stream).await?;
    let (head, body) = said.split_once("\r\n\r\n").context("no response")?;
    let body = serde_json::from_str(body).with_context(|| said.clone())?;
    Ok((head.to_lowercase(), body))
}

/// Asserts that a body has the members that every problem has, and no others.
fn assert_problem(body: &Value, status: u16, error: &str, title: &str, instance: &str) {
    let mut members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(
        members,
        ["detail", "error", "instance", "message", "status", "title", "type"],
        "{body}"
    );
    assert_eq!(body["type"], format!("/docs/api.md#{error}"), "{body}");
    assert_eq!(body["title"], title, "{body}");
    assert_eq!(body["status"], status, "{body}");
    assert_eq!(body["error"], error, "{body}");
    assert_eq!(body["instance"], instance, "{body}");
    assert!(!body["detail"].as_str().unwrap().is_empty(), "{body}");
    assert_eq!(body["message"], body["detail"], "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_refuses_an_ambiguous_request_and_a_key_in_its_url() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let customer = stack.admin.customer("eve", "free").await.unwrap();
    let admin = [&stack.gateways[0].service, &stack.ingestors[0], &stack.billing].map(|service| service.admin_url());
    let public = [stack.gateway(0), &stack.billing_url];
    for url in public.into_iter().chain(admin.iter().map(String::as_str)) {
        for (bytes, status, error) in [
            ("GET /healthz HTTP/1.1\r\n\r\n", 400, "invalid_request"),
            (
                "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
                400,
                "invalid_request",
            ),
            (
                "GET http://b/healthz HTTP/1.1\r\nhost: a\r\n\r\n",
                400,
                "invalid_request",
            ),
            ("CONNECT /healthz HTTP/1.1\r\nhost: a\r\n\r\n", 400, "invalid_request"),
            ("TRACE /healthz HTTP/1.1\r\nhost: a\r\n\r\n", 400, "invalid_request"),
            (
                "GET /billing/plans?api_key={key} HTTP/1.1\r\nhost: a\r\n\r\n",
                401,
                "api_key_in_url",
            ),
            (
                "GET /admin/keys/{key} HTTP/1.1\r\nhost: a\r\n\r\n",
                401,
                "api_key_in_url",
            ),
        ] {
            let (head, body) = exchange(url, &bytes.replace("{key}", &customer.key)).await.unwrap();
            assert!(
                head.starts_with(&format!("http/1.1 {status} ")),
                "{url} {bytes:?}: {head}"
            );
            assert_eq!(body["error"], error, "{url} {bytes:?}: {body}");
            assert!(!body.to_string().contains("tr_live_"), "{url} {bytes:?}: {body}");
        }
    }
    let files = std::fs::read_dir(stack.data.path()).unwrap();
    for file in files.map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "log") {
            let log = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
            assert!(!log.contains(&customer.key), "{} contains the key", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_head_gets_a_problem_body_on_every_port() {
    let limit = || vec![("HEAD_BYTES_MAX", HEAD_BYTES_MAX.to_string())];
    let options = StackOptions {
        gateway_env: limit(),
        billing_env: limit(),
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let public = [stack.gateway(0), &stack.billing_url];
    let admin = [&stack.gateways[0].service, &stack.ingestors[0], &stack.billing].map(|service| service.admin_url());
    let ports = public.into_iter().chain(admin.iter().map(String::as_str));

    let get = |target: &str, headers: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let large = format!("x-large: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
    let mut cases: Vec<_> = ports
        .flat_map(|url| {
            [
                (url, get("/x y", ""), 400),
                (url, get("/x", "content-length: 1\r\ncontent-length: 2\r\n"), 400),
                (url, get("/x", &large), 431),
                (url, get("/x", &"x-many: 1\r\n".repeat(101)), 431),
            ]
        })
        .collect();
    // The limit of an admin port is fixed, and smaller than the longest URI.
    cases.extend(public.map(|url| (url, get(&format!("/{}", "x".repeat(65_534)), ""), 414)));

    for (url, bytes, status) in cases {
        let begin = &bytes[..bytes.len().min(80)];
        let (head, body) = exchange(url, &bytes)
            .await
            .with_context(|| format!("{url}: {begin:?}"))
            .unwrap();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{begin:?}: {head}");
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        assert_eq!(header("content-type"), Some("application/problem+json"), "{head}");
        let id: Uuid = header("x-request-id").unwrap().parse().unwrap();
        let (error, title) = match status {
            400 => ("invalid_request", "Invalid request"),
            414 => ("uri_too_long", "URI too long"),
            _ => ("head_too_large", "Request head too large"),
        };
        assert_problem(&body, status, error, title, &format!("urn:uuid:{id}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_of_every_port_has_a_request_id() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let http = Http::default();
    let admin = [&stack.gateways[0].service, &stack.ingestors[0], &stack.billing].map(|service| service.admin_url());
    let public = [(stack.gateway(0), "/v1/check"), (&stack.billing_url, "/billing/plans")];
    let ports = admin.iter().map(|url| (url.as_str(), "/metrics")).chain(public);
    for (url, path) in ports {
        for (method, path, status) in [
            (Method::GET, "/docs/api.md", 0),
            (Method::GET, "/nowhere", 404),
            (Method::DELETE, path, 405),
        ] {
            let url = format!("{url}{path}");
            for sent in [None, Some("mine/1"), Some("01938F5E-7C1A-7B60-9D0E-3F0C6A1B2C3D")] {
                let mut request = request(method.clone(), &url, "", None).unwrap();
                if let Some(id) = sent {
                    request.headers_mut().insert("x-request-id", id.parse().unwrap());
                }
                let response = http.send(request).await.unwrap();
                let id = response.header("x-request-id").unwrap();
                match sent {
                    Some(sent) => assert_eq!(id, sent, "{url}"),
                    None => assert!(Uuid::parse_str(id).is_ok(), "{url}: {id}"),
                }
                let (error, title) = match status {
                    404 => ("unknown_route", "Unknown route"),
                    405 => ("method_not_allowed", "Method not allowed"),
                    _ => continue,
                };
                assert_eq!(response.status, status, "{url}");
                assert_eq!(
                    response.header("content-type"),
                    Some("application/problem+json"),
                    "{url}"
                );
                assert_eq!(response.header("allow").is_some(), status == 405, "{url}");
                let instance = match sent {
                    Some("mine/1") => "/requests/mine%2F1".to_owned(),
                    _ => format!("urn:uuid:{}", id.to_lowercase()),
                };
                assert_problem(&response.json().unwrap(), status, error, title, &instance);
            }
        }
    }
}

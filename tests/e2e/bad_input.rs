//! Bad input gets a problem body with the right status. It charges nothing, stores nothing and causes no panic.

use anyhow::Result;
use devstack::{admin::Customer, http::Http};
use harness::{Stack, StackOptions};
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::SERVICES;

/// One bad request. `{key}` is replaced by the customer's key, and `{encoded key}` by its percent-encoded form.
struct Case {
    name: &'static str,
    method: Method,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    status: u16,
    error: &'static str,
    /// A part of the message.
    says: &'static str,
}

impl Case {
    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn key(self) -> Self {
        self.header("authorization", "Bearer {key}")
    }

    fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn json(self, body: impl Into<Bytes>) -> Self {
        self.header("content-type", "application/json").body(body)
    }

    /// Sends the request and asserts that the response is the expected problem.
    async fn check(&self, http: &Http, gateway: &str, customer: &Customer) -> Result<()> {
        let encoded = customer.key.replace('_', "%5F").replacen('t', "%74", 1);
        let with_key = |text: &str| text.replace("{key}", &customer.key).replace("{encoded key}", &encoded);
        let mut request = Request::builder()
            .method(&self.method)
            .uri(format!("{gateway}{}", with_key(self.path)));
        for (name, value) in &self.headers {
            request = request.header(*name, with_key(value));
        }
        let request = request.body(Full::new(self.body.clone()))?;
        let answer = http.send(request).await?;
        let text = String::from_utf8_lossy(&answer.body);
        let (name, body): (_, Value) = (self.name, serde_json::from_slice(&answer.body).unwrap_or_default());
        assert_eq!(answer.status, self.status, "{name}: {text}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{name}"
        );
        assert_eq!(
            (&body["error"], &body["status"]),
            (&json!(self.error), &json!(self.status)),
            "{name}"
        );
        assert!(
            body["message"].as_str().unwrap_or_default().contains(self.says),
            "{name}: {text}"
        );
        let instance = answer.header("x-request-id").map(|id| format!("urn:uuid:{id}"));
        assert_eq!(body["instance"].as_str(), instance.as_deref(), "{name}");
        assert_eq!(body["type"], format!("/docs/api.md#{}", self.error), "{name}");
        assert!(!text.contains("tr_live_"), "{name}: the response contains the key");
        let retry_after = answer.header("retry-after").is_some();
        assert_eq!(retry_after, matches!(self.status, 429 | 503), "{name}");
        assert_eq!(
            answer.header("www-authenticate").is_some(),
            self.status == 401,
            "{name}"
        );
        Ok(())
    }
}

fn case(
    name: &'static str,
    method: Method,
    path: &'static str,
    status: u16,
    error: &'static str,
    says: &'static str,
) -> Case {
    Case {
        name,
        method,
        path,
        headers: Vec::new(),
        body: Bytes::new(),
        status,
        error,
        says,
    }
}

/// A request without a usable key.
fn keys() -> Vec<Case> {
    let get = |name, path, status, error, says| case(name, Method::GET, path, status, error, says);
    const API: &str = "/api/posts/search";
    const IN_URL: &str = "api_key_in_url";
    vec![
        get("no key", API, 401, "missing_api_key", "Authorization"),
        get("no key, own API", "/v1/usage", 401, "missing_api_key", "Authorization"),
        get(
            "no key, authorize",
            "/v1/authorize/api/x",
            401,
            "missing_api_key",
            "Authorization",
        ),
        get("another scheme", API, 401, "invalid_api_key", "Bearer").header("authorization", "Basic dTpw"),
        get(
            "a truncated key",
            API,
            401,
            "invalid_api_key",
            "malformed API key (was it truncated?)",
        )
        .header("authorization", "Bearer tr_live_x"),
        get("a mistyped key", API, 401, "invalid_api_key", "checksum")
            .header("authorization", "Bearer {key}".replace("{key}", &mistyped())),
        get("an unknown key", API, 401, "invalid_api_key", "unknown").header(
            "authorization",
            format!("Bearer {}", schema::api_key::ApiKey::generate().reveal()),
        ),
        get("a key in the query", "/api/x?api_key={key}", 401, IN_URL, "logs"),
        get("a key in the path", "/api/x/{key}", 401, IN_URL, "logs").key(),
        get(
            "a key as an unknown parameter",
            "/api/x?a=b&k={key}",
            401,
            IN_URL,
            "logs",
        )
        .key(),
        get("a key as a parameter's name", "/v1/usage?{key}", 401, IN_URL, "logs").key(),
        get("an encoded key", "/api/x?k={encoded key}", 401, IN_URL, "logs").key(),
        get("a key for a proxy", "/v1/authorize/api/x/{key}", 401, IN_URL, "logs").key(),
        get("a key in the original URI", "/v1/authorize", 401, IN_URL, "logs")
            .key()
            .header("x-original-method", "GET")
            .header("x-original-uri", "/api/x?k={encoded key}"),
        get("two keys", API, 400, "invalid_request", "more than one Authorization")
            .key()
            .key(),
    ]
}

/// A well-formed key with a wrong checksum.
fn mistyped() -> String {
    let mut key = schema::api_key::ApiKey::generate().reveal().to_owned();
    let last = if key.ends_with('0') { '1' } else { '0' };
    key.pop();
    key.push(last);
    key
}

fn paths() -> Vec<Case> {
    let get = |name, path, status, error, says| case(name, Method::GET, path, status, error, says).key();
    vec![
        get("no route", "/favicon.ico", 404, "unknown_route", "no route"),
        get("no route under /v1", "/v1/nothing", 404, "unknown_route", "no route"),
        get("dot segments", "/api/x/../y", 400, "invalid_request", "segments"),
        get(
            "encoded dot segments",
            "/api/%2e%2E/y",
            400,
            "invalid_request",
            "segments",
        ),
        get(
            "an encoded slash",
            "/api/export%2Fposts/csv",
            400,
            "invalid_request",
            "encoded slash",
        ),
        case(
            "a method in small letters",
            Method::from_bytes(b"post").unwrap(),
            "/api/export/posts/csv",
            400,
            "invalid_request",
            "capital letters",
        )
        .key(),
        get(
            "method",
            "/v1/usage/batch",
            405,
            "method_not_allowed",
            "the method GET; allowed: POST",
        ),
        case(
            "method",
            Method::DELETE,
            "/v1/usage",
            405,
            "method_not_allowed",
            "the method DELETE; allowed: ",
        )
        .key(),
        get(
            "a change of protocol",
            "/api/x",
            501,
            "upgrade_not_supported",
            "protocol",
        )
        .header("upgrade", "websocket"),
        get(
            "two idempotency keys",
            "/api/x",
            400,
            "invalid_request",
            "more than one Idempotency-Key",
        )
        .header("idempotency-key", "a")
        .header("idempotency-key", "b"),
        get("an odd idempotency key", "/api/x", 400, "invalid_request", "255")
            .header("idempotency-key", "k".repeat(256)),
        get(
            "authorize nothing",
            "/v1/authorize",
            400,
            "invalid_request",
            "X-Original-URI",
        ),
        get(
            "authorize two things",
            "/v1/authorize/api/x",
            400,
            "invalid_request",
            "differ",
        )
        .header("x-original-method", "GET")
        .header("x-original-uri", "/api/y"),
        get(
            "authorize no route",
            "/v1/authorize/nothing",
            404,
            "unknown_route",
            "no route",
        ),
        case(
            "authorize by body",
            Method::POST,
            "/v1/authorize/api/sentiment/analyze-batch",
            400,
            "invalid_request",
            "texts",
        )
        .key(),
    ]
}

fn bodies() -> Vec<Case> {
    let usage = |name, status, error, says| case(name, Method::POST, "/v1/usage", status, error, says).key();
    let texts =
        |name, status, error, says| case(name, Method::POST, "/api/sentiment/analyze-batch", status, error, says).key();
    let batch = |events: usize| json!({ "events": vec![json!({ "usage_type": "api_call" }); events] }).to_string();
    const INVALID: &str = "invalid_request";
    vec![
        usage("malformed JSON", 400, INVALID, "line 1, column 26").json(r#"{"usage_type":"api_call",}"#),
        usage("no JSON", 400, INVALID, "the body is empty").json(""),
        usage("no object", 400, INVALID, "must be an object, got 7").json("7"),
        usage("an array", 400, INVALID, "must be an object, got an array").json(r#"["api_call",1]"#),
        usage("no content type", 415, "unsupported_media_type", "application/json").body("{}"),
        usage(
            "another content type",
            415,
            "unsupported_media_type",
            "application/json",
        )
        .header("content-type", "text/plain")
        .body("{}"),
        usage("compressed", 415, "unsupported_media_type", "Content-Encoding")
            .header("content-encoding", "gzip")
            .json("x"),
        usage("unknown field", 400, INVALID, "`costs`").json(r#"{"usage_type":"api_call","costs":1}"#),
        usage("a field twice", 400, INVALID, "duplicate field `cost_units`")
            .json(r#"{"usage_type":"api_call","cost_units":1,"cost_units":2}"#),
        usage("no usage type", 400, INVALID, "`usage_type`").json("{}"),
        usage("unknown usage type", 404, "unknown_usage_type", "api_call, export")
            .json(r#"{"usage_type":"api_calls"}"#),
        usage(
            "cost 0",
            400,
            INVALID,
            "`cost_units` must be an integer from 1 to 1,000,000, got 0",
        )
        .json(r#"{"usage_type":"api_call","cost_units":0}"#),
        usage("negative cost", 400, INVALID, "got -1").json(r#"{"usage_type":"api_call","cost_units":-1}"#),
        usage("absurd cost", 400, INVALID, "from 1 to 1,000,000, got 1000001")
            .json(r#"{"usage_type":"api_call","cost_units":1000001}"#),
        usage("more absurd cost", 400, INVALID, "from 1 to 1,000,000, got 1e")
            .json(r#"{"usage_type":"api_call","cost_units":1e300}"#),
        usage("key in the body", 400, INVALID, "an API key")
            .json(r#"{"usage_type":"api_call","cost_units":"tr_live_x"}"#),
        usage("10 MB", 413, "too_large", "1048576").json(vec![b' '; 10_000_000]),
        case(
            "batch of 1,001",
            Method::POST,
            "/v1/usage/batch",
            413,
            "too_large",
            "1001",
        )
        .key()
        .json(batch(1_001)),
        case(
            "batch of 10 MB",
            Method::POST,
            "/v1/usage/batch",
            413,
            "too_large",
            "1048576",
        )
        .key()
        .json(vec![b' '; 10_000_000]),
        case(
            "batch of nothing",
            Method::POST,
            "/v1/usage/batch",
            400,
            INVALID,
            "must be an object, got an array",
        )
        .key()
        .json("[]"),
        case(
            "check of nothing",
            Method::POST,
            "/v1/check",
            400,
            INVALID,
            "`usage_type`",
        )
        .key()
        .json("{}"),
        case(
            "check of cost 0",
            Method::POST,
            "/v1/check",
            400,
            INVALID,
            "from 1 to 1,000,000, got 0",
        )
        .key()
        .json(r#"{"usage_type":"api_call","cost_units":0}"#),
        texts("no texts", 400, INVALID, "`texts` is missing").json(r#"{"text":["a"]}"#),
        texts("empty texts", 400, INVALID, "empty").json(r#"{"texts":[]}"#),
        texts("texts twice", 400, INVALID, "duplicate field `texts`").json(r#"{"texts":["a"],"texts":["a","b"]}"#),
        texts("broken texts", 400, INVALID, "not complete JSON").json(r#"{"texts":["a""#),
        texts("texts of 10 MB", 413, "too_large", "1048576")
            .json(format!(r#"{{"texts":["{}"]}}"#, "x".repeat(10_000_000))),
        texts("more texts than the plan has", 429, "rate_limit_exceeded", "costs 51")
            .json(json!({ "texts": vec!["a"; 51] }).to_string()),
        usage("more than the plan has", 429, "rate_limit_exceeded", "costs 101")
            .json(r#"{"usage_type":"api_call","cost_units":101}"#),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_a_problem_and_cost_nothing() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let customer = stack.admin.customer("eve", "free").await.unwrap();
    let (http, gateway) = (Http::default(), stack.gateway(0));
    for case in [keys(), paths(), bodies()].into_iter().flatten() {
        case.check(&http, gateway, &customer).await.unwrap();
    }

    // A valid request is served, and it is the only one that was ever counted.
    let answer = http
        .get(&format!("{gateway}/api/posts/search"), &customer.key)
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    stack.assert_stored(customer.account_id, 1, 1).await;
    let summary = http
        .get(&format!("{gateway}/v1/usage"), &customer.key)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let used: Vec<_> = summary["usage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|usage| &usage["current_usage"])
        .collect();
    assert_eq!(used, [&json!(1), &json!(0), &json!(0)], "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_a_batch_has_its_own_result() {
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let customer = stack.admin.customer("eve", "free").await.unwrap();
    let events = json!({ "events": [
        { "usage_type": "api_call", "cost_units": 60 },
        { "usage_type": "api_calls" },
        { "usage_type": "api_call", "cost_units": 41 },
        { "usage_type": "api_call", "cost": 1 },
        7,
        { "usage_type": "export", "cost_units": 5 },
        { "usage_type": "api_call", "cost_units": 40 },
        { "usage_type": "api_call" },
        ["api_call"],
    ] });
    let url = format!("{}/v1/usage/batch", stack.gateway(0));
    let answer = Http::default()
        .post(&url, &customer.key, &events)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let results = answer["results"].as_array().unwrap();
    let statuses: Vec<_> = results
        .iter()
        .map(|result| result["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [200, 404, 429, 400, 400, 200, 200, 429, 400], "{answer}");
    assert_eq!(results[2]["error"], "rate_limit_exceeded");
    assert!(results[3]["message"].as_str().unwrap().contains("`cost`"));
    assert_eq!(results[4]["message"], "`events[4]` must be an object, got 7");
    assert_eq!(results[8]["message"], "`events[8]` must be an object, got an array");
    stack.assert_stored(customer.account_id, 3, 60 + 5 + 40).await;
}

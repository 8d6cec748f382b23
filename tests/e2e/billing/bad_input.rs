//! Input that the admin API and the commands refuse.

use devstack::http::{Http, request};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    text,
    worker::{TOKEN, Worker},
};

#[tokio::test]
async fn without_the_token_every_request_is_refused() {
    let worker = Worker::start().await;
    let http = Http::default();
    let url = format!("{}/admin/accounts", worker.service.admin_url());
    for token in ["", "wrong", &TOKEN[1..], &format!("{TOKEN}x")] {
        let new = json!({ "name": "Ann", "email": "ann@example.com" });
        let answer = http.post(&url, token, &new).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{token:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.json().unwrap()["error"], "unauthorized");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let challenge = match token {
            "" => "Bearer",
            _ => "Bearer error=\"invalid_token\"",
        };
        assert_eq!(answer.header("www-authenticate"), Some(challenge), "{token:?}");
    }
    let mut twice = request(Method::GET, &url, TOKEN, None).unwrap();
    twice
        .headers_mut()
        .append("authorization", "Bearer wrong".parse().unwrap());
    assert_eq!(http.send(twice).await.unwrap().status, StatusCode::BAD_REQUEST);
    let stored: i64 = sqlx::query_scalar("select count(*) from accounts")
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!(stored, 0);
    // Monitoring needs no token.
    let health = http
        .get(&format!("{}/healthz", worker.service.admin_url()), "")
        .await
        .unwrap();
    assert_eq!(health.status, StatusCode::OK);
}

#[tokio::test]
async fn bad_input_is_refused_with_its_reason() {
    let worker = Worker::start().await;
    let ann = worker.account("ann@example.com", "free").await;
    let key = worker
        .change(Method::POST, &format!("/accounts/{ann}/keys"), Value::Null)
        .await;
    let nobody = Uuid::nil();
    let accounts = |body: &str| (Method::POST, "/accounts".to_owned(), body.to_owned());
    let of_ann = |method: Method, path: &str, body: &str| (method, format!("/accounts/{ann}/{path}"), body.to_owned());
    let get = |path: &str| (Method::GET, path.to_owned(), String::new());
    let rotate = |body: &str| {
        (
            Method::POST,
            format!("/keys/{}/rotate", text(&key["id"])),
            body.to_owned(),
        )
    };
    let scopes = |body: &str| {
        (
            Method::POST,
            format!("/keys/{}/scopes", text(&key["id"])),
            body.to_owned(),
        )
    };
    let long = "x".repeat(201);
    let shortened = format!("account `{}…` not found", "x".repeat(60));
    for ((method, path, body), status, error, named) in [
        (accounts(r#"{"name":"#), 400, "invalid_request", "ends too early"),
        (accounts(""), 400, "invalid_request", "name"),
        (
            accounts(r#"{"name":"A","email":"a@b.co","colour":1}"#),
            400,
            "invalid_request",
            "colour",
        ),
        (
            accounts(r#"{"name":"A","email":"a@b.co","email":"c@d.eu"}"#),
            400,
            "invalid_request",
            "email",
        ),
        (
            accounts(r#"{"name":1,"email":"a@b.co"}"#),
            400,
            "invalid_request",
            "string",
        ),
        (
            accounts(r#"{"name":"","email":"a@b.co"}"#),
            400,
            "invalid_request",
            "name",
        ),
        (
            accounts(&format!(r#"{{"name":"{long}","email":"a@b.co"}}"#)),
            400,
            "invalid_request",
            "200",
        ),
        (accounts(r#"{"name":"A","email":"a@b"}"#), 400, "invalid_request", "a@b"),
        (
            accounts(r#"{"name":"A","email":"a\u0000@b.co"}"#),
            400,
            "invalid_request",
            "address",
        ),
        (
            accounts(r#"{"name":"A","email":"a@b.co","plan":"gold"}"#),
            404,
            "unknown_plan",
            "free, pro, enterprise",
        ),
        (
            accounts(r#"{"name":"A","email":"ANN@example.com"}"#),
            409,
            "email_taken",
            "ANN@example.com",
        ),
        (accounts(&" ".repeat(256 * 1024 + 1)), 413, "too_large", "262144"),
        (get("/accounts?limit=0"), 400, "invalid_request", "limit"),
        (
            get("/accounts?limit=1001"),
            400,
            "invalid_request",
            "`limit` must be an integer from 1 to 1,000, got 1001",
        ),
        (
            get("/accounts?after=x"),
            400,
            "invalid_request",
            "`after` must be a UUID, got \"x\"",
        ),
        (
            get("/accounts?colour=1"),
            400,
            "invalid_request",
            "unknown query parameter `colour`; known: `limit`, `after`",
        ),
        (
            get("/audit?account=x"),
            400,
            "invalid_request",
            "`account` must be a UUID, got \"x\"",
        ),
        (
            get("/runs?state=lost"),
            400,
            "invalid_request",
            "`state` has the unknown value `lost`",
        ),
        (get("/accounts/x"), 404, "unknown_account", "x"),
        (
            get("/accounts/%ff"),
            400,
            "invalid_request",
            "`account` in the path must be UTF-8",
        ),
        (
            (Method::POST, "/reports/%ff/retry".to_owned(), String::new()),
            400,
            "invalid_request",
            "`identifier` in the path must be UTF-8",
        ),
        (
            get(&format!("/accounts/{}%00", "x".repeat(5_000))),
            404,
            "unknown_account",
            shortened.as_str(),
        ),
        (
            get("/accounts/a%00b%0a"),
            404,
            "unknown_account",
            "account `a\\0b\\n` not found",
        ),
        (get(&format!("/accounts/{nobody}")), 404, "unknown_account", "0000"),
        (get(&format!("/accounts/{nobody}/keys")), 404, "unknown_account", "0000"),
        (
            get("/nothing"),
            404,
            "unknown_route",
            "no route has this method and path: see /docs/api.md",
        ),
        (
            (Method::DELETE, "/accounts".to_owned(), String::new()),
            405,
            "method_not_allowed",
            "does not allow the method DELETE; allowed: ",
        ),
        (
            of_ann(Method::PUT, "plan", r#"{"plan":"gold"}"#),
            404,
            "unknown_plan",
            "free, pro, enterprise",
        ),
        (of_ann(Method::PUT, "plan", "{}"), 400, "invalid_request", "plan"),
        (
            of_ann(Method::PUT, "plan", r#"["enterprise"]"#),
            400,
            "invalid_request",
            "the body must be an object, got an array",
        ),
        (
            (Method::POST, format!("/runs/{nobody}/give-up"), "[true]".to_owned()),
            400,
            "invalid_request",
            "the body must be an object, got an array",
        ),
        (
            get(&format!("/accounts/{nobody}/notice-endpoint")),
            404,
            "unknown_account",
            "0000",
        ),
        (
            (
                Method::POST,
                format!("/accounts/{nobody}/notice-endpoint/test"),
                String::new(),
            ),
            404,
            "unknown_account",
            "0000",
        ),
        (
            of_ann(Method::PUT, "notice-endpoint", r#"{"url":"https://localhost/"}"#),
            400,
            "invalid_request",
            "`url` cannot be used: ",
        ),
        (
            of_ann(Method::PUT, "limits/calls", r#"{"limit_units":1}"#),
            404,
            "unknown_usage_type",
            "api_call, export",
        ),
        (
            of_ann(Method::DELETE, "limits/calls", ""),
            404,
            "unknown_usage_type",
            "api_call, export",
        ),
        (
            of_ann(Method::PUT, "limits/export", r#"{"limit_units":-1}"#),
            400,
            "invalid_request",
            "`limit_units` must be an integer from 0 to 999,999,999,999,999, got -1",
        ),
        (
            of_ann(Method::PUT, "limits/export", r#"{"limit_units":1e18}"#),
            400,
            "invalid_request",
            "`limit_units` must be an integer",
        ),
        (
            of_ann(Method::PUT, "limits/export", r#"{"limit_units":9999999999999999}"#),
            400,
            "invalid_request",
            "limit_units",
        ),
        (
            of_ann(Method::POST, "keys", r#"{"name":"a\nb"}"#),
            400,
            "invalid_request",
            "name",
        ),
        (
            of_ann(Method::POST, "keys", r#"{"expires_in_days":0}"#),
            400,
            "invalid_request",
            "expires_in_days",
        ),
        (
            of_ann(Method::POST, "keys", r#"{"expires_in_days":-1}"#),
            400,
            "invalid_request",
            "`expires_in_days` must be an integer from 1 to 3,650, got -1",
        ),
        (
            (Method::POST, format!("/accounts/{nobody}/keys"), String::new()),
            404,
            "unknown_account",
            "0000",
        ),
        (
            (
                Method::PUT,
                format!("/accounts/{nobody}/plan"),
                r#"{"plan":"pro"}"#.into(),
            ),
            404,
            "unknown_account",
            "0000",
        ),
        (
            (Method::POST, format!("/accounts/{nobody}/suspend"), String::new()),
            404,
            "unknown_account",
            "0000",
        ),
        (
            rotate(r#"{"overlap_hours":8761}"#),
            400,
            "invalid_request",
            "`overlap_hours` must be an integer from 0 to 8,760, got 8761",
        ),
        (rotate(r#"{"overlap":1}"#), 400, "invalid_request", "overlap"),
        (
            of_ann(Method::POST, "keys", r#"{"scopes":[]}"#),
            400,
            "invalid_request",
            "`scopes` must name at least one of `usage` and `billing`",
        ),
        (
            of_ann(Method::POST, "keys", r#"{"scopes":["usage","admin"]}"#),
            400,
            "invalid_request",
            "`scopes[1]` has the unknown value `admin`; known: `usage`, `billing`",
        ),
        (
            of_ann(Method::POST, "keys", r#"{"scopes":"billing"}"#),
            400,
            "invalid_request",
            "`scopes` must be an array",
        ),
        (rotate(r#"{"scopes":["billing"]}"#), 400, "invalid_request", "scopes"),
        (scopes(""), 400, "invalid_request", "`add` or `remove`"),
        (
            scopes(r#"{"add":[],"remove":[]}"#),
            400,
            "invalid_request",
            "`add` or `remove`",
        ),
        (
            scopes(r#"{"add":["admin"]}"#),
            400,
            "invalid_request",
            "`add[0]` has the unknown value `admin`; known: `usage`, `billing`",
        ),
        (
            scopes(r#"{"add":["billing"],"remove":["billing"]}"#),
            400,
            "invalid_request",
            "both name the scope `billing`",
        ),
        (scopes(r#"{"remove":["usage"]}"#), 400, "invalid_request", "revoke it"),
        (
            (
                Method::POST,
                format!("/keys/{nobody}/scopes"),
                r#"{"add":["billing"]}"#.to_owned(),
            ),
            404,
            "unknown_key",
            "0000",
        ),
        (
            (Method::DELETE, "/keys/x".to_owned(), String::new()),
            404,
            "unknown_key",
            "x",
        ),
        (
            (Method::DELETE, format!("/keys/{nobody}"), String::new()),
            404,
            "unknown_key",
            "0000",
        ),
    ] {
        let url = format!("{}/admin{path}", worker.service.admin_url());
        let what = format!("{method} {path} {:.80}", body);
        let request = request(method, &url, TOKEN, None).unwrap().map(|_| body.into());
        let answer = Http::default().send(request).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{what}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{what}"
        );
        let problem = answer.json().unwrap();
        assert_eq!(
            (&problem["error"], &problem["status"]),
            (&json!(error), &json!(status)),
            "{what}"
        );
        assert!(text(&problem["message"]).contains(named), "{what}: {problem}");
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from accounts")
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!(stored, 1);
}

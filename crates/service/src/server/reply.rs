//! The common parts of every response of every port: an id, and a body if it is a problem.
//!
//! This does not use the layers of `tower-http`. Its request-id layer keeps any id from a client, of any length and number.
//! Its panic layer puts the body of every response into another box.

use std::{future::Future, panic::AssertUnwindSafe};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE},
};
use problem::{Kind, Problem};
use tower::ServiceExt;
use tracing::error;

use super::{
    ServerMetrics, framing,
    request_id::{self, X_REQUEST_ID},
};

/// Returns the router's response to `request`. The router sees only requests that [`framing::check`] accepts, with a valid
/// `X-Request-Id`.
pub async fn reply(router: Router, mut request: Request, type_base: &str, metrics: &ServerMetrics) -> Response {
    let id = request_id::of(request.headers());
    request.headers_mut().insert(X_REQUEST_ID, id.clone());
    let method = request.method().clone();
    let asks_for_page = request.method() == Method::GET && request.uri().path() == problem::TYPE_BASE;
    let respond = async {
        match framing::check(&request) {
            Ok(()) => router.oneshot(request).await.unwrap_or_else(|never| match never {}),
            Err(problem) => {
                metrics.invalid(problem.kind);
                let close = HeaderValue::from_static("close");
                ([(CONNECTION, close)], problem).into_response()
            }
        }
    };
    let mut response = or_internal_error(&id, respond).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if asks_for_page && problem.kind == Kind::UnknownRoute {
            response = ([(CONTENT_TYPE, "text/markdown; charset=utf-8")], problem::PAGE).into_response();
        } else {
            // The router has written the length of the empty body.
            response.headers_mut().remove(CONTENT_LENGTH);
            let problem = match allowed(&problem, response.headers()) {
                Some(allowed) => problem.allowing(&method, allowed),
                None => problem,
            };
            *response.body_mut() = Body::from(problem.body(type_base, id.to_str().unwrap_or_default()));
            // A cache may keep some problems, such as 404 and 405, and the next request may be answered otherwise.
            let headers = response.headers_mut();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

/// The methods that the path allows, if that is the problem. The router has written them.
fn allowed<'a>(problem: &Problem, headers: &'a HeaderMap) -> Option<&'a str> {
    let allowed = headers.get(ALLOW).filter(|_| problem.kind == Kind::MethodNotAllowed)?;
    allowed.to_str().ok()
}

/// Returns the response, or an internal error if `respond` panics.
pub async fn or_internal_error(request_id: &HeaderValue, respond: impl Future<Output = Response>) -> Response {
    let responded = AssertUnwindSafe(respond).catch_unwind().await;
    responded.unwrap_or_else(|_| {
        // The panic hook logs the panic itself, with its location.
        error!(
            request_id = request_id.to_str().unwrap_or_default(),
            "a request panicked"
        );
        Problem::of(Kind::Internal).into_response()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use serde_json::Value;

    async fn send(method: &str, path: &str) -> (Response<()>, String) {
        let router = Router::new()
            .route("/served", get(async || "served"))
            .route("/panics", get(async || -> &'static str { panic!("out of paper") }))
            .fallback(async || Problem::of(Kind::UnknownRoute))
            .method_not_allowed_fallback(async || Problem::of(Kind::MethodNotAllowed));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "a.example")
            .header("x-request-id", "mine-1")
            .body(Body::empty())
            .unwrap();
        let (parts, body) = reply(router, request, "/errors", &ServerMetrics::default())
            .await
            .into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            Response::from_parts(parts, ()),
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn every_response_has_an_id_and_every_problem_a_body() {
        for (path, status, error) in [
            ("/served", 200, None),
            ("/panics", 500, Some("internal_error")),
            ("/nothing", 404, Some("unknown_route")),
            ("http://b.example/served", 400, Some("invalid_request")),
        ] {
            let (response, body) = send("GET", path).await;
            assert_eq!(
                (response.status().as_u16(), &response.headers()["x-request-id"]),
                (status, &"mine-1".parse().unwrap())
            );
            let Some(error) = error else { continue };
            let length = response.headers().get(CONTENT_LENGTH);
            assert!(
                length.is_none_or(|length| *length == *body.len().to_string()),
                "{path}: {length:?}"
            );
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["error"], error);
            assert_eq!(body["type"], format!("/errors#{error}"));
            assert_eq!(body["instance"], "/requests/mine-1");
        }
    }

    #[tokio::test]
    async fn a_problem_names_the_way_out_and_is_in_no_cache() {
        for (method, path, message) in [
            ("GET", "/nothing", "no route has this method and path: see /docs/api.md"),
            (
                "PUT",
                "/served",
                "this path does not allow the method PUT; allowed: GET, HEAD",
            ),
        ] {
            let (response, body) = send(method, path).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["message"], message);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        }
    }

    #[tokio::test]
    async fn the_documentation_of_problems_is_served() {
        let (response, body) = send("GET", problem::TYPE_BASE).await;
        assert_eq!(response.status(), 200);
        assert!(body.contains("#### `unknown_route`"));
        assert_eq!(send("POST", problem::TYPE_BASE).await.0.status(), 404);
    }
}

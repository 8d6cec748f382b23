//! An HTTP client for the demo and the tests. It sends URLs unchanged and follows no redirects.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;

/// No response takes longer. A request that hangs must fail a test, not block it.
const WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Clone, Debug)]
pub struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client }
    }
}

impl Http {
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<HttpResponse> {
        let what = format!("{} {}", request.method(), request.uri());
        let exchange = async {
            let (head, body) = self.client.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(HttpResponse {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        match tokio::time::timeout(WITHIN, exchange).await {
            Ok(answer) => answer.with_context(|| what),
            Err(_) => bail!("{what}: no answer within {WITHIN:?}"),
        }
    }

    pub async fn get(&self, url: &str, bearer: &str) -> Result<HttpResponse> {
        self.send(request(Method::GET, url, bearer, None)?).await
    }

    pub async fn post(&self, url: &str, bearer: &str, body: &Value) -> Result<HttpResponse> {
        self.send(request(Method::POST, url, bearer, Some(body))?).await
    }

    pub async fn put(&self, url: &str, bearer: &str, body: &Value) -> Result<HttpResponse> {
        self.send(request(Method::PUT, url, bearer, Some(body))?).await
    }

    pub async fn delete(&self, url: &str, bearer: &str) -> Result<HttpResponse> {
        self.send(request(Method::DELETE, url, bearer, None)?).await
    }
}

impl HttpResponse {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: the body is not JSON", self.status))
    }

    /// The body as JSON if the status is 2xx, otherwise an error with the response.
    pub fn ok(&self) -> Result<Value> {
        if !self.status.is_success() {
            bail!("{}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        self.json()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A request with a JSON body and, unless it is empty, a bearer token.
pub fn request(method: Method, url: &str, bearer: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(url);
    if !bearer.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let body = match body {
        Some(body) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Bytes::from(serde_json::to_vec(body)?)
        }
        None => Bytes::new(),
    };
    request
        .body(Full::new(body))
        .with_context(|| format!("making a request to {url}"))
}

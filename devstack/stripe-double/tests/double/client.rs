//! A client that speaks Stripe's form encoding, and one for pages.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use stripe_double::StripeDouble;

/// A hang must fail a test, not stop it.
const WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    key: String,
}

#[derive(Debug)]
pub(crate) struct ClientResponse {
    pub status: StatusCode,
    pub body: Bytes,
    headers: HeaderMap,
}

impl Client {
    pub(crate) fn of(stripe: &StripeDouble) -> Self {
        Self {
            url: stripe.url().to_owned(),
            key: stripe.api_key().to_owned(),
        }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &str,
        key: &str,
    ) -> anyhow::Result<ClientResponse> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        send(request.body(Full::new(body.to_owned().into()))?).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> ClientResponse {
        self.send(Method::POST, path, body, "").await.unwrap()
    }

    /// The response of a call that must succeed.
    pub(crate) async fn ok(&self, path: &str, body: &str) -> Value {
        self.post(path, body).await.ok().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, "", "").await.unwrap().ok().unwrap()
    }

    pub(crate) async fn id(&self, path: &str, body: &str) -> String {
        self.ok(path, body).await["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn meter(&self, customer: &str, identifier: &str, units: i64, at: i64) -> ClientResponse {
        let payload = format!("payload[stripe_customer_id]={customer}&payload[value]={units}");
        let body = format!("event_name=api_call&identifier={identifier}&timestamp={at}&{payload}");
        self.post("/v1/billing/meter_events", &body).await
    }
}

impl ClientResponse {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: the body is not JSON", self.status))
    }

    /// The body as JSON if the status is 2xx, otherwise an error with the response.
    pub(crate) fn ok(&self) -> Result<Value> {
        if !self.status.is_success() {
            bail!("{}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        self.json()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Opens a page, or presses its button.
pub(crate) async fn open(method: Method, url: &str) -> ClientResponse {
    let request = Request::builder().method(method).uri(url);
    send(request.body(Full::default()).unwrap()).await.unwrap()
}

async fn send(request: Request<Full<Bytes>>) -> Result<ClientResponse> {
    let exchange = async {
        let client = HttpClient::builder(TokioExecutor::new()).build_http();
        let (head, body) = client.request(request).await?.into_parts();
        Ok(ClientResponse {
            status: head.status,
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    };
    tokio::time::timeout(WITHIN, exchange)
        .await
        .context("no response in time")?
}

/// The message of an error in Stripe's form.
pub(crate) fn message(answer: &ClientResponse) -> String {
    answer.json().unwrap()["error"]["message"].as_str().unwrap().to_owned()
}

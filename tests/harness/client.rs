//! A customer's client: sends calls and records the responses.

use anyhow::Result;
use devstack::{
    admin::Customer,
    http::{Http, HttpResponse},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

/// Calls of one customer to one gateway.
#[derive(Clone)]
pub struct Client {
    http: Http,
    url: String,
    key: String,
}

impl Client {
    pub fn new(gateway: &str, customer: &Customer) -> Self {
        Self {
            http: Http::default(),
            url: gateway.to_owned(),
            key: customer.key.clone(),
        }
    }

    /// Records usage and checks the limit: `POST /v1/usage`.
    pub async fn spend(&self, usage_type: &str, units: i64) -> Result<HttpResponse> {
        self.post("/v1/usage", &json!({ "usage_type": usage_type, "cost_units": units }))
            .await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<HttpResponse> {
        self.http.post(&format!("{}{path}", self.url), &self.key, body).await
    }

    pub async fn get(&self, path: &str) -> Result<HttpResponse> {
        self.http.get(&format!("{}{path}", self.url), &self.key).await
    }
}

/// Sends `calls` calls, at most 64 at a time, in any order.
pub async fn concurrently<F: Future<Output = Result<HttpResponse>>>(
    calls: impl IntoIterator<Item = F>,
) -> Vec<Result<HttpResponse>> {
    stream::iter(calls).buffer_unordered(64).collect().await
}

/// The number of responses with this status.
pub fn count(answers: &[Result<HttpResponse>], status: u16) -> usize {
    answers
        .iter()
        .flatten()
        .filter(|answer| answer.status == status)
        .count()
}

//! One delivery attempt: one signed POST to an allowed address, with a time-out. Redirects are not followed.

use std::{error::Error, time::Duration};

use axum::http::{
    Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, USER_AGENT},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::timeout;

use super::{connector::Connector, endpoint, outbox::Claimed, settings::Policy, signature};

/// From the DNS look-up to the response.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of a failure response is read.
const ANSWER_BYTES_MAX: usize = 1_024;
/// How much of it is stored.
const ANSWER_CHARS_MAX: usize = 200;

pub struct Delivery {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    policy: Policy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// 2xx.
    Delivered,
    /// 410: the endpoint wants no more notices.
    Gone,
    Failed(String),
}

impl Delivery {
    /// Does not connect yet.
    pub fn new(policy: Policy) -> Self {
        let schemes = HttpsConnectorBuilder::new().with_webpki_roots();
        let schemes = match policy.allow_http {
            true => schemes.https_or_http(),
            false => schemes.https_only(),
        };
        let connector = schemes.enable_http1().wrap_connector(Connector {
            allow_private: policy.allow_private,
        });
        // No connection is reused: its address was checked for an earlier notice.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(16 * 1_024)
            .build(connector);
        Self { client, policy }
    }

    /// Sends a notice at `now`, Unix seconds.
    pub async fn attempt(&self, claimed: &Claimed, now: i64) -> DeliveryOutcome {
        // The policy may be stricter than when the URL was set.
        let uri = match endpoint::checked_url(&claimed.url, self.policy) {
            Ok(uri) => uri,
            Err(rule) => return DeliveryOutcome::Failed(format!("the URL {rule}")),
        };
        let exchange = async {
            let request = match request(uri, claimed, now) {
                Ok(request) => request,
                Err(error) => return DeliveryOutcome::Failed(error.to_string()),
            };
            match self.client.request(request).await {
                Ok(answer) => outcome(answer).await,
                Err(error) => DeliveryOutcome::Failed(match error.is_connect() {
                    true => format!("cannot connect: {}", innermost(&error)),
                    false => format!("no valid answer: {}", innermost(&error)),
                }),
            }
        };
        timeout(ATTEMPT_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| DeliveryOutcome::Failed(format!("no answer within {ATTEMPT_TIMEOUT:?}")))
    }
}

fn request(uri: Uri, claimed: &Claimed, now: i64) -> axum::http::Result<Request<Full<Bytes>>> {
    let id = claimed.id.to_string();
    Request::post(uri)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("trendit-usage/", env!("CARGO_PKG_VERSION")))
        .header(
            "webhook-signature",
            signature::header(&claimed.secrets, &id, now, &claimed.body),
        )
        .header("webhook-id", id)
        .header("webhook-timestamp", now)
        .body(Full::from(claimed.body.clone()))
}

async fn outcome(answer: Response<Incoming>) -> DeliveryOutcome {
    let status = answer.status();
    if status.is_success() {
        return DeliveryOutcome::Delivered;
    }
    if status == StatusCode::GONE {
        return DeliveryOutcome::Gone;
    }
    if status.is_redirection() {
        return DeliveryOutcome::Failed(format!("answered {status}: redirects are not followed"));
    }
    let mut body = answer.into_body();
    let mut read = Vec::new();
    while read.len() < ANSWER_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        let data = frame.into_data().unwrap_or_default();
        let room = ANSWER_BYTES_MAX - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
    }
    let said = readable(&String::from_utf8_lossy(&read));
    DeliveryOutcome::Failed(match said.is_empty() {
        true => format!("answered {status}"),
        false => format!("answered {status}: {said}"),
    })
}

/// Returns the beginning of an untrusted text on one line, without control characters: people read it, and PostgreSQL cannot
/// store NUL.
fn readable(text: &str) -> String {
    let words: Vec<_> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(ANSWER_CHARS_MAX).collect()
}

/// Returns the root cause: the outer errors only say that a request failed.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    readable(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untrusted_response_is_shortened_to_one_line() {
        assert_eq!(readable(" a\r\nb\0c\u{1b}[31m "), "a b c [31m");
        assert_eq!(readable(&"é".repeat(500)).chars().count(), ANSWER_CHARS_MAX);
    }
}

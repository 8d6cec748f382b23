//! One attempt to deliver a notice: one POST, signed, within a time and to an allowed address. Redirects are not followed.

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

/// From the look-up of the host to the answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Of an answer that tells of a failure; the rest is not read.
const ANSWER_BYTES_MAX: usize = 1_024;
/// Of the same, as it is kept for people.
const ANSWER_CHARS_MAX: usize = 200;

pub struct Delivery {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    policy: Policy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Delivered,
    /// 410: the endpoint wants no more.
    Gone,
    Failed(String),
}

impl Delivery {
    /// Connects to nothing yet.
    pub fn new(policy: Policy) -> Self {
        let schemes = HttpsConnectorBuilder::new().with_webpki_roots();
        let schemes = match policy.allow_http {
            true => schemes.https_or_http(),
            false => schemes.https_only(),
        };
        let connector = schemes.enable_http1().wrap_connector(Connector {
            allow_private: policy.allow_private,
        });
        // Nothing is kept alive: a connection that is used again was checked for another notice, long ago.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(16 * 1_024)
            .build(connector);
        Self { client, policy }
    }

    /// Sends a notice at `now`, Unix seconds.
    pub async fn attempt(&self, claimed: &Claimed, now: i64) -> Outcome {
        // A policy may have become stricter since the URL was set.
        let uri = match endpoint::checked_url(&claimed.url, self.policy) {
            Ok(uri) => uri,
            Err(rule) => return Outcome::Failed(format!("the URL {rule}")),
        };
        let exchange = async {
            let request = match request(uri, claimed, now) {
                Ok(request) => request,
                Err(error) => return Outcome::Failed(error.to_string()),
            };
            match self.client.request(request).await {
                Ok(answer) => outcome(answer).await,
                Err(error) => Outcome::Failed(match error.is_connect() {
                    true => format!("cannot connect: {}", innermost(&error)),
                    false => format!("no valid answer: {}", innermost(&error)),
                }),
            }
        };
        timeout(ATTEMPT_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Outcome::Failed(format!("no answer within {ATTEMPT_TIMEOUT:?}")))
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

async fn outcome(answer: Response<Incoming>) -> Outcome {
    let status = answer.status();
    if status.is_success() {
        return Outcome::Delivered;
    }
    if status == StatusCode::GONE {
        return Outcome::Gone;
    }
    if status.is_redirection() {
        return Outcome::Failed(format!("answered {status}: redirects are not followed"));
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
    Outcome::Failed(match said.is_empty() {
        true => format!("answered {status}"),
        false => format!("answered {status}: {said}"),
    })
}

/// The beginning of a text that a stranger chose, on one line: it is shown to people, and PostgreSQL stores no NUL.
fn readable(text: &str) -> String {
    let words: Vec<_> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(ANSWER_CHARS_MAX).collect()
}

/// The cause: what is around it says only that a request failed.
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
    fn what_a_stranger_answers_is_kept_short_and_on_one_line() {
        assert_eq!(readable(" a\r\nb\0c\u{1b}[31m "), "a b c [31m");
        assert_eq!(readable(&"é".repeat(500)).chars().count(), ANSWER_CHARS_MAX);
    }
}

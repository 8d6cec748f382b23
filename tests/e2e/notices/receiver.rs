//! A customer's endpoint: records the requests and responds as the test specifies.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use devstack::upstream::Upstream;
use harness::eventually;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode, header::LOCATION};
use http_body_util::BodyExt;
use serde_json::Value;
use sha2::Sha256;

pub(super) struct Receiver {
    server: Upstream,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// The responses to the next requests. Later requests get 204.
    answers: VecDeque<StatusCode>,
    received: Vec<Received>,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub path: String,
    headers: HeaderMap,
    pub body: String,
}

impl Receiver {
    pub(super) async fn start(answers: &[u16]) -> Self {
        let answers = answers.iter().map(|status| StatusCode::from_u16(*status).unwrap());
        let seen = Arc::new(Mutex::new(Seen {
            answers: answers.collect(),
            received: Vec::new(),
        }));
        let router = Router::new().fallback(receive).with_state(seen.clone());
        Self {
            server: Upstream::serve(router).await.unwrap(),
            seen,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("{}/usage", self.server.url())
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.seen.lock().unwrap().received.clone()
    }

    /// Waits for the n-th request, counted from 1.
    pub(super) async fn nth(&self, n: usize) -> Received {
        eventually(&format!("notice {n} arrives"), async || {
            self.received().get(n - 1).cloned()
        })
        .await
    }
}

async fn receive(State(seen): State<Arc<Mutex<Seen>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut seen = seen.lock().unwrap();
    seen.received.push(Received {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let status = seen.answers.pop_front().unwrap_or(StatusCode::NO_CONTENT);
    match status.is_redirection() {
        true => (status, [(LOCATION, "/elsewhere")]).into_response(),
        false if status.is_server_error() => (status, "out of\n paper").into_response(),
        false => status.into_response(),
    }
}

impl Received {
    pub(super) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(super) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_str(&self.body).unwrap()
    }

    /// Returns the number of signatures, and whether one is by this secret. Written from the specification, not from our code.
    pub(super) fn signatures(&self, secret: &str) -> (usize, bool) {
        let timestamp: i64 = self.header("webhook-timestamp").parse().unwrap();
        assert!((schema::clock::now_s() - timestamp).abs() < 60, "of the attempt");
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{timestamp}.{}", self.id(), self.body).as_bytes());
        let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        let signatures: Vec<_> = self.header("webhook-signature").split(' ').collect();
        (signatures.len(), signatures.contains(&expected.as_str()))
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

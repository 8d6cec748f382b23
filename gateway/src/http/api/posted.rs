//! A report as it was posted, and the one response to its `Idempotency-Key`.

use std::{future::Future, sync::Arc, time::Instant};

use axum::http::request::Parts;
use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use schema::{EventId, clock};

use super::authenticate;
use crate::{
    accounts::{burst::BurstView, key::Key},
    http::{body, client::Client, gateway::Gateway, idempotency_key, problem::Problem, rate_limit, replay},
    recording::{
        completion::see_through,
        responses::{Claim, Fingerprint, Try},
    },
};

/// A report as it was sent, with its key, client and time.
pub(super) struct Posted {
    pub key: Arc<Key>,
    pub client: Client,
    pub idempotency_key: Option<String>,
    pub content: Bytes,
    /// Unix milliseconds.
    pub time_ms: i64,
    burst: Option<BurstView>,
    parts: Parts,
}

impl Posted {
    pub(super) async fn read(gateway: &Gateway, client: Client, request: Request) -> Result<Self, Problem> {
        let (parts, content) = request.into_parts();
        let time_ms = clock::now_ms();
        let key = authenticate(gateway, &parts.headers, time_ms.div_euclid(1_000)).await?;
        let burst = key.take_request(time_ms.div_euclid(1_000))?;
        let idempotency_key = idempotency_key::of(&parts.headers)?.map(String::from);
        let content = body::read_json(&parts.headers, content, gateway.settings.body_max).await?;
        Ok(Self {
            key,
            client,
            idempotency_key,
            content,
            time_ms,
            burst,
            parts,
        })
    }

    pub(super) fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// `None`: it has no key.
    fn claim(&self, gateway: &Gateway) -> Result<Option<Claim>, Problem> {
        let Some(idempotency_key) = &self.idempotency_key else {
            return Ok(None);
        };
        let name = EventId::of_idempotency_key(self.key.account.id, idempotency_key);
        let request = Fingerprint::of(self.parts.method.as_str(), self.path(), &self.content);
        Ok(Some(gateway.responses.claim(name, request, Instant::now())?))
    }
}

/// Runs `work` to answer the request. If the same request was answered before, sends that response again. With a key, `work`
/// reports its result in its [`Try`] and completes even if the client leaves, so the client's retry finds the response.
pub(super) async fn once<F>(
    gateway: Arc<Gateway>,
    posted: Posted,
    work: impl FnOnce(Arc<Gateway>, Posted, Option<Try>) -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<axum::http::Response<Bytes>, Problem>> + Send + 'static,
{
    // Each request takes from its key's bucket, so this is not part of a stored response.
    let burst = posted.burst;
    let mut response = match posted.claim(&gateway)? {
        None => work(gateway, posted, None).await?.map(Body::from),
        Some(Claim::Replay(response)) => replay::replayed(response),
        Some(Claim::Try(attempt)) => {
            let life = gateway.life.clone();
            let response = see_through(&life, work(gateway, posted, Some(attempt))).await;
            response?.map(Body::from)
        }
    };
    rate_limit::insert_burst(response.headers_mut(), burst);
    Ok(response)
}

//! The metered reverse proxy: admits a request that has a route, forwards it to the upstream, records it, and responds.

use std::{borrow::Cow, convert::Infallible, sync::Arc, time::Instant};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{CONTENT_LENGTH, HOST},
    uri::PathAndQuery,
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use schema::clock;

use crate::http::uuid_value::uuid_value;
use crate::{
    http::{
        auth,
        body::{self, refuse_compressed},
        client::{Client, TEXT_MAX, cut},
        gateway::Gateway,
        idempotency_key,
        problem::{Kind, Problem},
        rate_limit,
        request_metrics::UpstreamTime,
    },
    pricing::{
        cost::{self, Cost, json_array},
        routes::{Charge, Route},
    },
    recording::{
        completion::see_through,
        event::{Facts, Receipt},
        recorder::Admitted,
    },
};

pub mod headers;
mod upload;
mod upstream;

pub use upstream::{Passed, Upstream, UpstreamError, UpstreamSettings};

/// The id of the event that a request is counted as.
pub const USAGE_EVENT_ID: HeaderName = HeaderName::from_static("usage-event-id");

pub async fn pass(
    State(gateway): State<Arc<Gateway>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    if gateway.upstream.is_none() {
        return Err(Problem::of(Kind::UnknownRoute));
    }
    let Some(route) = gateway.routes.find(&parts.method, parts.uri.path())? else {
        return Err(Problem::of(Kind::UnknownRoute));
    };
    let time_ms = clock::now_ms();
    let key = auth::authenticate(&gateway.accounts, &parts.headers, time_ms.div_euclid(1_000)).await?;
    let burst = key.take_request(time_ms.div_euclid(1_000))?;
    if headers::asks_to_upgrade(&parts.headers) {
        return Err(Problem::new(
            Kind::UpgradeNotSupported,
            "the connection cannot change its protocol, because requests are metered one by one",
        ));
    }
    let idempotency_key = idempotency_key::of(&parts.headers)?.map(Cow::into_owned);
    let (cost, body) = cost_of(route, &parts.headers, body, gateway.settings.body_max).await?;
    let event_id = idempotency_key.as_deref().map(|idempotency_key| {
        idempotency_key::event_of(key.account.id, idempotency_key, &parts.method, &parts.uri, cost)
    });
    let facts = Facts {
        endpoint: cut(parts.uri.path(), TEXT_MAX).to_owned(),
        method: parts.method.as_str().to_ascii_uppercase(),
        request_id: client.request_id().to_owned(),
        address: client.address,
        user_agent: client.user_agent(),
        idempotency_key,
        event_id,
        time_ms,
    };
    let (usage_type, charge) = (route.usage_type, route.charge);
    let account = uuid_value(key.account.id.0);
    let admitted = gateway.recorder.admit(key, usage_type, cost, facts).await?;

    let host = parts
        .headers
        .get(HOST)
        .cloned()
        .or_else(|| HeaderValue::from_str(parts.uri.authority()?.as_str()).ok());
    headers::to_upstream(&mut parts.headers, &client, host, account, route.cost.header());
    let request = Passed {
        method: parts.method,
        path: parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
        headers: parts.headers,
        body,
    };
    let life = gateway.life.clone();
    // Units are reserved and the upstream starts to work: from here on the result is recorded even if the client leaves.
    let mut response = see_through(&life, finish(gateway, admitted, charge, request)).await?;
    rate_limit::insert_burst(response.headers_mut(), burst);
    Ok(response)
}

async fn finish(
    gateway: Arc<Gateway>,
    admitted: Admitted,
    charge: Charge,
    request: Passed,
) -> Result<Response, Problem> {
    let is_head = request.method == Method::HEAD;
    let started = Instant::now();
    let answer = match &gateway.upstream {
        Some(upstream) => upstream.send(request).await,
        None => Err(UpstreamError::Unreachable),
    };
    let upstream_time = UpstreamTime(started.elapsed());
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let problem = Problem::from(error);
            let receipt = admitted.fail(problem.status().as_u16());
            return Ok(with_usage(problem.into_response(), receipt, upstream_time));
        }
    };
    let status = answer.status().as_u16();
    let receipt = if charge.covers(status) {
        gateway.recorder.charge(admitted, status).await?
    } else {
        gateway.metrics.upstream_refused();
        admitted.fail(status)
    };
    let mut response = answer.map(|body| Body::new(gateway.under_way.stream(body)));
    headers::drop_hop_by_hop(response.headers_mut(), |_| false);
    if is_head && !response.headers().contains_key(CONTENT_LENGTH) {
        // A body of unknown length: otherwise axum would announce a length of 0, which the upstream did not announce.
        *response.body_mut() = Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>());
    }
    Ok(with_usage(response, receipt, upstream_time))
}

/// Adds the headers about the client's usage.
fn with_usage(mut response: Response, receipt: Receipt, upstream_time: UpstreamTime) -> Response {
    let headers = response.headers_mut();
    rate_limit::insert(headers, &[(receipt.usage_type, receipt.quota)], clock::now_s());
    headers.insert(USAGE_EVENT_ID, uuid_value(receipt.event_id.0));
    response.extensions_mut().insert(upstream_time);
    response
}

/// The cost of a request, and its body. The body is read here only if the cost depends on it.
async fn cost_of(route: &Route, headers: &HeaderMap, body: Body, body_max: usize) -> Result<(i64, Body), Problem> {
    match &route.cost {
        Cost::Fixed(units) => Ok((*units, body)),
        Cost::Header(name) => Ok((cost::in_header(headers, name)?, body)),
        Cost::JsonArray(name) => {
            refuse_compressed(headers)?;
            let bytes = body::read(headers, body, body_max).await?;
            Ok((json_array::length(&bytes, name)?, Body::from(bytes)))
        }
    }
}

impl From<UpstreamError> for Problem {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Unreachable => Self::new(
                Kind::UpstreamUnreachable,
                "the API behind the gateway cannot be reached; nothing was charged: try again later",
            ),
            UpstreamError::Invalid => Self::new(
                Kind::UpstreamInvalid,
                "the API behind the gateway sent no valid HTTP response; nothing was charged",
            ),
            UpstreamError::Timeout => Self::new(
                Kind::UpstreamTimeout,
                "the API behind the gateway did not respond in time; nothing was charged",
            ),
            UpstreamError::BodyStalled => Self::new(
                Kind::BodyTimeout,
                "the body did not arrive in time; nothing was charged",
            ),
            UpstreamError::BodyBroken => {
                Self::invalid("the body ended before its announced length; nothing was charged")
            }
        }
    }
}

//! `POST /v1/usage`: decides on one report and records it, completely or not at all.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use schema::clock;

use super::{
    json,
    posted::{Posted, once},
    reported::{Reported, Usage, UsageResponse},
};
use crate::http::uuid_value::uuid_value;
use crate::{
    accounts::key::Key,
    http::{
        body,
        client::Client,
        gateway::Gateway,
        problem::{Kind, Problem},
        proxy::USAGE_EVENT_ID,
        rate_limit, replay,
        request_metrics::UpstreamTime,
    },
    recording::responses::Try,
};

pub async fn record(
    State(gateway): State<Arc<Gateway>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Problem> {
    let posted = Posted::read(&gateway, client, request).await?;
    once(gateway, posted, record_once).await
}

async fn record_once(
    gateway: Arc<Gateway>,
    posted: Posted,
    attempt: Option<Try>,
) -> Result<axum::http::Response<Bytes>, Problem> {
    let recorded = record_now(&gateway, posted).await;
    if let Some(attempt) = attempt {
        match &recorded {
            Ok(response) => attempt.answered(replay::stored(response)),
            // If this event is stored after all, the event of the next try is dropped.
            Err(problem) if problem.kind == Kind::OutcomeUnknown => attempt.maybe_counted(),
            Err(_) => attempt.not_counted(),
        }
    }
    recorded
}

async fn record_now(gateway: &Gateway, posted: Posted) -> Result<axum::http::Response<Bytes>, Problem> {
    let (key, usage) = read(gateway, posted)?;
    let admitted = gateway
        .recorder
        .admit(key, usage.usage_type, usage.cost_units, usage.facts)
        .await?;
    // Nothing is awaited between the two: if the client leaves, its report is either not admitted or in the lane.
    let receipt = gateway.recorder.charge(admitted, usage.status).await?;

    let mut response = json(&UsageResponse::from(&receipt));
    rate_limit::insert(
        response.headers_mut(),
        &[(receipt.usage_type, receipt.quota)],
        clock::now_s(),
    );
    response
        .headers_mut()
        .insert(USAGE_EVENT_ID, uuid_value(receipt.event_id.0));
    response.extensions_mut().insert(UpstreamTime(Duration::ZERO));
    Ok(response)
}

/// Drops the body, so that no request waits with it in memory.
fn read(gateway: &Gateway, posted: Posted) -> Result<(Arc<Key>, Usage), Problem> {
    let reported: Reported = body::parse(&posted.content)?;
    let usage = reported.read(
        &gateway.catalogue,
        posted.path(),
        &posted.client,
        posted.key.account.id,
        posted.idempotency_key.clone(),
        posted.time_ms,
    )?;
    Ok((posted.key, usage))
}

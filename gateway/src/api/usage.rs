//! `POST /v1/usage`: decides on one report and records it, whole or not at all.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use schema::clock;

use super::{
    authenticate, json,
    reported::{Answer, Reported},
};
use crate::{
    body, burst,
    client::Client,
    gateway::Gateway,
    idempotency_key, metering,
    problem::Problem,
    proxy::{USAGE_EVENT_ID, headers::uuid_value},
    rate_limit,
    request_metrics::UpstreamTime,
};

pub async fn record(
    State(gateway): State<Arc<Gateway>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, content) = request.into_parts();
    let time_ms = clock::now_ms();
    let key = authenticate(&gateway, &parts.uri, &parts.headers, time_ms.div_euclid(1_000)).await?;
    let burst = burst::take(&key, time_ms.div_euclid(1_000))?;
    let idempotency_key = idempotency_key::of(&parts.headers)?.map(str::to_owned);
    let content = body::read_json(&parts.headers, content, gateway.settings.body_max).await?;
    let reported: Reported = body::parse(&content)?;
    let usage = reported.read(&gateway.catalogue, parts.uri.path(), &client, idempotency_key, time_ms)?;

    let admitted = metering::admit(&gateway, key, usage.usage_type, usage.cost_units, usage.facts).await?;
    // Nothing is awaited between the two, so a client that leaves finds its report either not admitted or with the lane.
    let receipt = admitted.charge(&gateway, usage.status).await?;

    let mut response = json(&Answer::from(&receipt));
    rate_limit::insert(
        response.headers_mut(),
        &[(receipt.usage_type, receipt.quota)],
        clock::now_s(),
    );
    rate_limit::insert_burst(response.headers_mut(), burst);
    response
        .headers_mut()
        .insert(USAGE_EVENT_ID, uuid_value(receipt.event_id.0));
    response.extensions_mut().insert(UpstreamTime(Duration::ZERO));
    Ok(response)
}

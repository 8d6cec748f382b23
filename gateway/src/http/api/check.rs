//! `POST /v1/check`: checks whether a cost would be admitted now. It spends and reserves nothing, so the response is valid only
//! for this moment.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use schema::clock;
use serde::{Deserialize, Serialize};

use super::{authenticate, json, one, read_cost_units, usage_type};
use crate::{
    http::{balance::Balance, body, gateway::Gateway, problem::Problem, rate_limit},
    pricing::cost,
    quota::{CapView, Refusal},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    usage_type: String,
    #[serde(default = "one", deserialize_with = "read_cost_units")]
    cost_units: i64,
}

#[derive(Serialize)]
struct CheckResponse {
    allowed: bool,
    #[serde(flatten)]
    balance: Balance,
}

pub async fn check(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, Problem> {
    let (parts, content) = request.into_parts();
    let now_s = clock::now_s();
    let key = authenticate(&gateway, &parts.headers, now_s).await?;
    let burst = key.take_request(now_s)?;
    let content = body::read_json(&parts.headers, content, gateway.settings.body_max).await?;
    let Check {
        usage_type: name,
        cost_units,
    } = body::parse(&content)?;
    let usage_type = usage_type(&gateway.catalogue, &name)?;
    let cost = cost::bounded("`cost_units`", cost_units)?;

    let (allowed, view) = match gateway.quotas.check(&key.counters, usage_type, cost, now_s).await {
        Ok(view) => (true, view),
        Err(Refusal::LimitReached(view) | Refusal::SpendCapReached(CapView { quota: view, .. })) => (false, view),
        Err(refusal) => return Err(Problem::refused(refusal, usage_type, cost, now_s)),
    };
    let mut response = json(&CheckResponse {
        allowed,
        balance: Balance::from(&view),
    });
    rate_limit::insert(response.headers_mut(), &[(usage_type, view)], now_s);
    rate_limit::insert_burst(response.headers_mut(), burst);
    Ok(response.map(Body::from))
}

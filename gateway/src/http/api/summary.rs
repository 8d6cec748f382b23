//! `GET /v1/usage`: what the account has used of every usage type in this period.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use schema::clock;
use serde::Serialize;

use super::{authenticate, instant, json};
use crate::http::{
    balance::Balance,
    gateway::Gateway,
    problem::{Kind, Problem},
    rate_limit,
};

#[derive(Serialize)]
struct Summary<'a> {
    account_id: String,
    plan: &'a str,
    period_start: String,
    period_end: String,
    usage: Vec<Usage>,
}

#[derive(Serialize)]
struct Usage {
    usage_type: &'static str,
    mode: &'static str,
    #[serde(flatten)]
    balance: Balance,
}

pub async fn show(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, Problem> {
    let now_s = clock::now_s();
    let key = authenticate(&gateway, request.headers(), now_s).await?;
    let burst = key.take_request(now_s)?;
    let views = gateway
        .quotas
        .view(&key.counters, now_s)
        .await
        .map_err(|_| Problem::new(Kind::QuotaUnavailable, "the quota cannot be read now: try again later"))?;
    let current_plan = key.account.current_plan(now_s);
    let mut response = json(&Summary {
        account_id: key.account.id.to_string(),
        plan: &current_plan.name,
        period_start: instant(current_plan.period.start),
        period_end: instant(current_plan.period.end),
        usage: views
            .iter()
            .map(|(usage_type, view)| Usage {
                usage_type: usage_type.name(),
                mode: view.mode.as_str(),
                balance: Balance::from(view),
            })
            .collect(),
    });
    rate_limit::insert(response.headers_mut(), &views, now_s);
    rate_limit::insert_burst(response.headers_mut(), burst);
    Ok(response.map(Body::from))
}

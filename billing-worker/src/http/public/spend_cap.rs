//! `/billing/spend-cap`: the most that the account wants to pay for usage in a period.

use axum::{Json, extract::State};

use super::{PublicApi, authenticate::Caller};
use crate::{
    error::Error,
    http::body::Body,
    spend_caps::{
        arm,
        cap::{self, NewCap, SpendCap},
    },
};

pub(super) async fn show(State(api): State<PublicApi>, Caller(account): Caller) -> Result<Json<SpendCap>, Error> {
    let now = api.billing.clock.now_s();
    Ok(Json(cap::show(&api.billing.admin, account, now).await?))
}

pub(super) async fn set(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    Body(new): Body<NewCap>,
) -> Result<Json<SpendCap>, Error> {
    let (billing, metrics) = (api.billing.clone(), api.metrics.reports.watermark.clone());
    let setting = async move {
        let now = billing.clock.now_s();
        cap::set(&billing.admin, account, new, now).await?;
        arm::soon(&billing.admin, &metrics, account, now).await?;
        cap::show(&billing.admin, account, now).await
    };
    api.complete(setting).await.map(Json)
}

pub(super) async fn remove(State(api): State<PublicApi>, Caller(account): Caller) -> Result<Json<SpendCap>, Error> {
    let now = api.billing.clock.now_s();
    cap::remove(&api.billing.admin, account).await?;
    Ok(Json(cap::show(&api.billing.admin, account, now).await?))
}

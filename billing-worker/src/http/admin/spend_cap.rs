//! `/admin/accounts/{account}/spend-cap`

use axum::{Json, extract::State};
use schema::clock::now_s;
use serde::Deserialize;

use super::{AdminApi, extract::AccountPath};
use crate::{
    accounts::view,
    administration::Administration,
    error::Error,
    http::body::Body,
    spend_caps::{
        arm,
        cap::{self, Cents, SpendCap},
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCap {
    cents: Cents,
}

pub(super) async fn show(admin: Administration, AccountPath(account): AccountPath) -> Result<Json<SpendCap>, Error> {
    // An account that does not exist.
    view::show(&admin, account, now_s()).await?;
    Ok(Json(cap::show(&admin, account, now_s()).await?))
}

pub(super) async fn set(
    State(api): State<AdminApi>,
    admin: Administration,
    AccountPath(account): AccountPath,
    Body(new): Body<NewCap>,
) -> Result<Json<SpendCap>, Error> {
    cap::set(&admin, account, new.cents, now_s()).await?;
    arm::soon(&admin, &api.metrics.reports.watermark, account, now_s()).await?;
    Ok(Json(cap::show(&admin, account, now_s()).await?))
}

pub(super) async fn remove(admin: Administration, AccountPath(account): AccountPath) -> Result<Json<SpendCap>, Error> {
    cap::remove(&admin, account).await?;
    Ok(Json(cap::show(&admin, account, now_s()).await?))
}

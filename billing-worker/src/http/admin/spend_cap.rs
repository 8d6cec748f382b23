//! `/admin/accounts/{account}/spend-cap`

use axum::{Json, extract::State};
use schema::clock::now_s;

use super::{AdminApi, extract::AccountPath};
use crate::{
    accounts::view,
    administration::Administration,
    error::Error,
    http::body::Body,
    spend_caps::{
        arm,
        cap::{self, NewCap, SpendCap},
    },
};

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
    cap::set(&admin, account, new, now_s()).await?;
    arm::soon(&admin, &api.metrics.reports.watermark, account, now_s()).await?;
    Ok(Json(cap::show(&admin, account, now_s()).await?))
}

pub(super) async fn remove(admin: Administration, AccountPath(account): AccountPath) -> Result<Json<SpendCap>, Error> {
    cap::remove(&admin, account).await?;
    Ok(Json(cap::show(&admin, account, now_s()).await?))
}

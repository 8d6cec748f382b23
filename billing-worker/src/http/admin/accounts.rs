//! `/admin/accounts`, and an account's plan and limits.

use axum::{Json, http::StatusCode};
use schema::clock::now_s;
use serde::Deserialize;

use super::extract::{AccountPath, LimitPath, PageQuery};
use crate::{
    accounts::{self, Account, AccountDetails, NewAccount, Status, limits},
    administration::{Administration, page::Listed},
    error::Error,
    http::body::Body,
    subscriptions,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    plan: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLimit {
    /// Units a period.
    limit_units: i64,
}

pub async fn create(
    admin: Administration,
    Body(new): Body<NewAccount>,
) -> Result<(StatusCode, Json<AccountDetails>), Error> {
    Ok((StatusCode::CREATED, Json(accounts::create(&admin, new, now_s()).await?)))
}

pub async fn list(admin: Administration, PageQuery(page): PageQuery) -> Result<Json<Listed<Account>>, Error> {
    Ok(Json(accounts::list(&admin, page, now_s()).await?))
}

pub async fn show(admin: Administration, AccountPath(account): AccountPath) -> Result<Json<AccountDetails>, Error> {
    Ok(Json(accounts::show(&admin, account, now_s()).await?))
}

pub async fn suspend(admin: Administration, AccountPath(account): AccountPath) -> Result<Json<AccountDetails>, Error> {
    let details = accounts::set_status(&admin, account, Status::Suspended, now_s()).await?;
    Ok(Json(details))
}

pub async fn resume(admin: Administration, AccountPath(account): AccountPath) -> Result<Json<AccountDetails>, Error> {
    let details = accounts::set_status(&admin, account, Status::Active, now_s()).await?;
    Ok(Json(details))
}

pub async fn assign_plan(
    admin: Administration,
    AccountPath(account): AccountPath,
    Body(assignment): Body<Assignment>,
) -> Result<Json<AccountDetails>, Error> {
    let details = subscriptions::assign(&admin, account, &assignment.plan, now_s()).await?;
    Ok(Json(details))
}

pub async fn set_limit(
    admin: Administration,
    LimitPath(account, usage_type): LimitPath,
    Body(new): Body<NewLimit>,
) -> Result<Json<AccountDetails>, Error> {
    let details = limits::set(&admin, account, &usage_type, new.limit_units, now_s()).await?;
    Ok(Json(details))
}

pub async fn clear_limit(
    admin: Administration,
    LimitPath(account, usage_type): LimitPath,
) -> Result<Json<AccountDetails>, Error> {
    let details = limits::clear(&admin, account, &usage_type, now_s()).await?;
    Ok(Json(details))
}

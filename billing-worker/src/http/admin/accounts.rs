//! `/admin/accounts`, and an account's plan and limits.

use axum::{Json, http::StatusCode};
use schema::{AccountId, clock::now_s};
use serde::Deserialize;

use super::extract::{AccountPath, LimitPath};
use crate::{
    accounts::{
        create::{self, NewAccount},
        link::{self, Earlier},
        overrides::{self, LimitUnits},
        status::{self, AccountStatus},
        view::{self, Account, AccountDetails},
    },
    administration::{
        Administration,
        page::{Listed, Page},
    },
    error::Error,
    http::body::Body,
    http::query::Parameters,
    subscriptions::{assign, billing::Billing},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Assignment {
    plan: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLimit {
    /// Units per period.
    limit_units: LimitUnits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CustomerToLink {
    customer_id: String,
    /// Replaces an earlier link.
    #[serde(default)]
    replace: bool,
}

pub(super) async fn create(
    admin: Administration,
    Body(new): Body<NewAccount>,
) -> Result<(StatusCode, Json<AccountDetails>), Error> {
    let account = create::create(&admin, new, now_s()).await?;
    Ok((StatusCode::CREATED, details(&admin, account).await?))
}

pub(super) async fn list(
    admin: Administration,
    Parameters(page): Parameters<Page>,
) -> Result<Json<Listed<Account>>, Error> {
    Ok(Json(view::list(&admin, page, now_s()).await?))
}

pub(super) async fn show(
    admin: Administration,
    AccountPath(account): AccountPath,
) -> Result<Json<AccountDetails>, Error> {
    details(&admin, account).await
}

pub(super) async fn suspend(
    admin: Administration,
    AccountPath(account): AccountPath,
) -> Result<Json<AccountDetails>, Error> {
    status::set_status(&admin, account, AccountStatus::Suspended).await?;
    details(&admin, account).await
}

pub(super) async fn resume(
    admin: Administration,
    AccountPath(account): AccountPath,
) -> Result<Json<AccountDetails>, Error> {
    status::set_status(&admin, account, AccountStatus::Active).await?;
    details(&admin, account).await
}

pub(super) async fn link_stripe(
    billing: Billing,
    AccountPath(account): AccountPath,
    Body(new): Body<CustomerToLink>,
) -> Result<Json<AccountDetails>, Error> {
    let earlier = if new.replace { Earlier::Replaced } else { Earlier::Kept };
    link::link(&billing, account, &new.customer_id, earlier).await?;
    details(&billing.admin, account).await
}

pub(super) async fn assign_plan(
    admin: Administration,
    AccountPath(account): AccountPath,
    Body(assignment): Body<Assignment>,
) -> Result<Json<AccountDetails>, Error> {
    assign::assign(&admin, account, &assignment.plan, now_s()).await?;
    details(&admin, account).await
}

pub(super) async fn set_limit(
    admin: Administration,
    LimitPath(account, usage_type): LimitPath,
    Body(new): Body<NewLimit>,
) -> Result<Json<AccountDetails>, Error> {
    overrides::set(&admin, account, &usage_type, new.limit_units, now_s()).await?;
    details(&admin, account).await
}

pub(super) async fn clear_limit(
    admin: Administration,
    LimitPath(account, usage_type): LimitPath,
) -> Result<Json<AccountDetails>, Error> {
    overrides::clear(&admin, account, &usage_type, now_s()).await?;
    details(&admin, account).await
}

async fn details(admin: &Administration, account: AccountId) -> Result<Json<AccountDetails>, Error> {
    Ok(Json(view::show(admin, account, now_s()).await?))
}

//! An account's notice endpoint, and its notices.

use axum::{Json, http::StatusCode};
use schema::clock::now_s;

use super::extract::{AccountPath, NoticePath};
use crate::{
    administration::{
        Administration,
        page::{Listed, Page},
    },
    error::Error,
    http::body::Body,
    http::query::Parameters,
    notices::{
        endpoint::{self, Endpoint, IssuedEndpoint, NewEndpoint, SecretRotation},
        operator::{self, Notice},
        settings::Policy,
    },
};

/// `201` with the secret if the account had none.
pub(super) async fn set(
    admin: Administration,
    policy: Policy,
    AccountPath(account): AccountPath,
    Body(new): Body<NewEndpoint>,
) -> Result<(StatusCode, Json<IssuedEndpoint>), Error> {
    let issued = endpoint::set(&admin, policy, account, new).await?;
    let status = match issued.secret {
        Some(_) => StatusCode::CREATED,
        None => StatusCode::OK,
    };
    Ok((status, Json(issued)))
}

pub(super) async fn show(admin: Administration, AccountPath(account): AccountPath) -> Result<Json<Endpoint>, Error> {
    Ok(Json(endpoint::show(&admin, account).await?))
}

pub(super) async fn remove(admin: Administration, AccountPath(account): AccountPath) -> Result<Json<Endpoint>, Error> {
    Ok(Json(endpoint::remove(&admin, account).await?))
}

pub(super) async fn rotate(
    admin: Administration,
    AccountPath(account): AccountPath,
    Body(rotation): Body<SecretRotation>,
) -> Result<(StatusCode, Json<IssuedEndpoint>), Error> {
    let issued = endpoint::rotate(&admin, account, rotation, now_s()).await?;
    Ok((StatusCode::CREATED, Json(issued)))
}

/// `202`: the notice is queued. The list of notices shows whether it was delivered.
pub(super) async fn test(
    admin: Administration,
    AccountPath(account): AccountPath,
) -> Result<(StatusCode, Json<Notice>), Error> {
    let notice = operator::test(&admin, account, now_s()).await?;
    Ok((StatusCode::ACCEPTED, Json(notice)))
}

pub(super) async fn list(
    admin: Administration,
    AccountPath(account): AccountPath,
    Parameters(page): Parameters<Page>,
) -> Result<Json<Listed<Notice>>, Error> {
    Ok(Json(operator::list(&admin, account, page).await?))
}

/// `202`, as above.
pub(super) async fn replay(
    admin: Administration,
    NoticePath(id): NoticePath,
) -> Result<(StatusCode, Json<Notice>), Error> {
    Ok((StatusCode::ACCEPTED, Json(operator::replay(&admin, id).await?)))
}

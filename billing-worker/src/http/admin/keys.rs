//! `/admin/keys`, and an account's keys.

use axum::{Json, http::StatusCode};
use schema::clock::now_s;

use super::extract::{AccountPath, KeyPath};
use crate::{
    accounts::keys::{self, IssuedKey, Key, NewKey, RotatedKey, Rotation, ScopeChange},
    administration::{
        Administration,
        page::{Listed, Page},
    },
    error::Error,
    http::body::Body,
    http::query::Parameters,
};

pub(super) async fn create(
    admin: Administration,
    AccountPath(account): AccountPath,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Json<IssuedKey>), Error> {
    let issued = keys::create(&admin, account, new, now_s()).await?;
    Ok((StatusCode::CREATED, Json(issued)))
}

pub(super) async fn list(
    admin: Administration,
    AccountPath(account): AccountPath,
    Parameters(page): Parameters<Page>,
) -> Result<Json<Listed<Key>>, Error> {
    Ok(Json(keys::list(&admin, account, page, now_s()).await?))
}

pub(super) async fn revoke(admin: Administration, KeyPath(key): KeyPath) -> Result<Json<Key>, Error> {
    Ok(Json(keys::revoke(&admin, key, now_s()).await?))
}

pub(super) async fn rotate(
    admin: Administration,
    KeyPath(key): KeyPath,
    Body(rotation): Body<Rotation>,
) -> Result<(StatusCode, Json<RotatedKey>), Error> {
    let rotated = keys::rotate(&admin, key, rotation, now_s()).await?;
    Ok((StatusCode::CREATED, Json(rotated)))
}

pub(super) async fn change_scopes(
    admin: Administration,
    KeyPath(key): KeyPath,
    Body(change): Body<ScopeChange>,
) -> Result<Json<Key>, Error> {
    Ok(Json(keys::change_scopes(&admin, key, change, now_s()).await?))
}

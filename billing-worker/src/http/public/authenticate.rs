//! The API key of a request: which account it belongs to, and whether it allows the request.

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
    response::{IntoResponse, Response},
};
use problem::{BearerError, Problem, bearer, malformed_key, unknown_key};
use schema::{
    AccountId, KeyId, Scope, Scopes,
    api_key::{self, KeyHash},
    clock,
    period::instant,
};

use super::{PublicApi, share::Share};
use crate::error::Error;

/// The account of the request's API key. A request that can change something needs a key with the scope `billing`. The method
/// decides this, so that no handler can forget it.
pub(super) struct Caller(pub AccountId);

impl FromRequestParts<PublicApi> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &PublicApi) -> Result<Self, Response> {
        let (id, hash) = identify(&parts.headers).map_err(IntoResponse::into_response)?;
        let row = sqlx::query!(
            "select account_id, secret_sha256, scopes from api_keys
             where id = $1 and revoked_at is null and (expires_at is null or expires_at > $2)",
            id.0,
            instant(clock::now_s())
        )
        .fetch_optional(&api.billing.admin.db)
        .await
        .map_err(|error| Error::KeyUnchecked(error).into_response())?
        .ok_or_else(|| unknown_key().into_response())?;
        if KeyHash::from_stored(&row.secret_sha256) != Some(hash) {
            return Err(unknown_key().into_response());
        }
        let account = AccountId(row.account_id);
        if let Some(share) = parts.extensions.get::<Share>() {
            share.remember(hash, account).await;
        }
        let scope = Scope::Billing;
        if !parts.method.is_safe() && !Scopes::from_stored(&row.scopes).has(scope) {
            return Err(Error::ScopeMissing { scope, key: id }.into_response());
        }
        Ok(Self(account))
    }
}

/// `None`: the request names no key. A wrong one is refused.
impl OptionalFromRequestParts<PublicApi> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &PublicApi) -> Result<Option<Self>, Response> {
        match parts.headers.contains_key(AUTHORIZATION) {
            true => <Self as FromRequestParts<PublicApi>>::from_request_parts(parts, api)
                .await
                .map(Some),
            false => Ok(None),
        }
    }
}

/// Reads the key that a request names, without a look-up.
pub(super) fn identify(headers: &HeaderMap) -> Result<(KeyId, KeyHash), Problem> {
    let text = bearer(headers).map_err(BearerError::of_key)?;
    api_key::identify(text).map_err(|why| malformed_key(&why))
}

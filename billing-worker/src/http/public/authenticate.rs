//! Finds the account of a request by its API key, and checks that the key allows the request.

use axum::{
    extract::FromRequestParts,
    http::{header::AUTHORIZATION, request::Parts},
};
use schema::{AccountId, Scope, Scopes, api_key, api_key::KeyHash, clock, period::instant};

use super::PublicApi;
use crate::error::Error;

/// The account of the request's API key. A request that can change something needs a key with the scope `billing`. The method
/// decides this, so that no handler can forget it.
pub struct Caller(pub AccountId);

impl FromRequestParts<PublicApi> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &PublicApi) -> Result<Self, Error> {
        let mut sent = parts.headers.get_all(AUTHORIZATION).iter();
        let header = match (sent.next(), sent.next()) {
            (Some(header), None) => header,
            (None, _) => return Err(Error::NoKey),
            // It would be unclear which one counts.
            (Some(_), Some(_)) => {
                return Err(Error::Malformed(
                    "the request has more than one Authorization header".to_owned(),
                ));
            }
        };
        let text = header.to_str().ok().and_then(bearer).ok_or(Error::InvalidKey)?;
        let (id, hash) = api_key::identify(text).map_err(|_| Error::InvalidKey)?;
        let row = sqlx::query!(
            "select account_id, secret_sha256, scopes from api_keys
             where id = $1 and revoked_at is null and (expires_at is null or expires_at > $2)",
            id.0,
            instant(clock::now_s())
        )
        .fetch_optional(&api.billing.admin.db)
        .await
        .map_err(Error::KeyUnchecked)?
        .ok_or(Error::InvalidKey)?;
        if KeyHash::from_stored(&row.secret_sha256) != Some(hash) {
            return Err(Error::InvalidKey);
        }
        let scope = Scope::Billing;
        if !parts.method.is_safe() && !Scopes::from_stored(&row.scopes).has(scope) {
            return Err(Error::ScopeMissing { scope, key: id });
        }
        Ok(Self(AccountId(row.account_id)))
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, key) = header.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case("Bearer ").then_some(key)
}

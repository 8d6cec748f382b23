//! Extractors: a handler receives what it needs, or the client receives a problem document.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::{HeaderName, request::Parts},
};
use schema::{AccountId, KeyId, RunId};

use super::AdminApi;
use crate::{
    accounts::identity::checked_name,
    administration::Administration,
    error::Error,
    notices::{message::NoticeId, settings::Policy},
    subscriptions::billing::Billing,
};

/// Optional name of the requester, for the audit log.
const REQUESTED_BY: HeaderName = HeaderName::from_static("x-requested-by");

/// The account in the path.
pub(super) struct AccountPath(pub AccountId);

/// The key in the path.
pub(super) struct KeyPath(pub KeyId);

/// The notice in the path.
pub(super) struct NoticePath(pub NoticeId);

/// The run in the path.
pub(super) struct RunPath(pub RunId);

/// The identifier of a report in the path.
pub(super) struct ReportPath(pub String);

/// The account and the usage type in the path.
pub(super) struct LimitPath(pub AccountId, pub String);

impl FromRequestParts<AdminApi> for Billing {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        let mut billing = state.billing.get().cloned().ok_or(Error::Starting)?;
        if let Some(name) = parts.headers.get(REQUESTED_BY) {
            let name = String::from_utf8_lossy(name.as_bytes());
            billing.admin.name = Some(checked_name("X-Requested-By", &name)?.to_owned());
        }
        Ok(billing)
    }
}

impl FromRequestParts<AdminApi> for Administration {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        Ok(Billing::from_request_parts(parts, state).await?.admin)
    }
}

impl FromRequestParts<AdminApi> for AccountPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        let [account] = in_path(parts, state, ["account"]).await?;
        account.parse().map(Self).map_err(|_| no_account(account))
    }
}

impl FromRequestParts<AdminApi> for KeyPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        let [key] = in_path(parts, state, ["key"]).await?;
        key.parse().map(Self).map_err(|_| Error::UnknownKey(key))
    }
}

impl FromRequestParts<AdminApi> for NoticePath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        let [notice] = in_path(parts, state, ["notice"]).await?;
        notice.parse().map(Self).map_err(|_| Error::UnknownNotice(notice))
    }
}

impl FromRequestParts<AdminApi> for RunPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        let [run] = in_path(parts, state, ["run"]).await?;
        run.parse().map(Self).map_err(|_| Error::UnknownRun(run))
    }
}

impl FromRequestParts<AdminApi> for ReportPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        let [identifier] = in_path(parts, state, ["identifier"]).await?;
        Ok(Self(identifier))
    }
}

impl FromRequestParts<AdminApi> for Policy {
    type Rejection = Error;

    async fn from_request_parts(_: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        Ok(state.notice_policy)
    }
}

impl FromRequestParts<AdminApi> for LimitPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        let [account, usage_type] = in_path(parts, state, ["account", "usage_type"]).await?;
        match account.parse() {
            Ok(account) => Ok(Self(account, usage_type)),
            Err(_) => Err(no_account(account)),
        }
    }
}

/// The text is the id of no account.
fn no_account(text: String) -> Error {
    match text.contains('@') {
        true => Error::AccountByEmail(text),
        false => Error::UnknownAccount(text),
    }
}

async fn in_path<const N: usize>(parts: &mut Parts, state: &AdminApi, names: [&str; N]) -> Result<[String; N], Error> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Error::Malformed(format!("`{}` in the path must be UTF-8", names.join("` or `"))))?;
    Ok(names.map(|name| {
        let param = params.iter().find(|(known, _)| *known == name);
        param.map(|(_, value)| value.to_owned()).unwrap_or_default()
    }))
}

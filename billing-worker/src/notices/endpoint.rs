//! The notice endpoint of an account: its URL, and the secrets that sign its notices.

use axum::http::{Uri, uri::Scheme};
use problem::shown;
use schema::{AccountId, period::instant};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use super::{connector, settings::Policy, signature::Secret};
use crate::{
    accounts::keys::{OVERLAP_HOURS, OverlapHours},
    administration::{Administration, audit},
    error::{Error, violated},
};

const URL_BYTES_MAX: usize = 2_048;
/// Maximum number of signatures in one header.
const SECRETS_MAX: i64 = 5;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    pub url: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRotation {
    /// Hours during which the old secret signs notices as well; `None`: [`OVERLAP_HOURS`].
    pub overlap_hours: Option<OverlapHours>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    pub account_id: AccountId,
    pub url: String,
    /// `active` or `disabled`.
    pub state: String,
    /// Why the endpoint is disabled.
    pub disabled_reason: Option<String>,
    /// Start of the current series of failures, if the last attempt failed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub failing_since: Option<OffsetDateTime>,
    /// Newest first, without the secrets themselves.
    pub secrets: Vec<SecretInUse>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

#[derive(Clone, Debug, Serialize)]
pub struct SecretInUse {
    pub id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

/// An endpoint with its new secret. No `Debug`, so that no log can contain the secret.
#[derive(Serialize)]
pub struct IssuedEndpoint {
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// `whsec_…`; absent if the endpoint keeps its secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Sets an account's URL. The first call creates a secret. Later calls keep the secret and enable a disabled endpoint again.
pub async fn set(
    admin: &Administration,
    policy: Policy,
    account: AccountId,
    new: NewEndpoint,
) -> Result<IssuedEndpoint, Error> {
    let url = new.url.trim();
    checked_url(url, policy).map_err(|rule| Error::BadValue {
        field: "url",
        rule: format!("{rule}, got \"{}\"", shown(url)),
    })?;
    let mut tx = admin.db.begin().await?;
    let before = sqlx::query!(
        "select url, state from notice_endpoints where account_id = $1 for update",
        account.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    let changes = before.is_none_or(|before| before.url != url || before.state != "active");
    // A running delivery to the old URL loses its claim: its result says nothing about the new URL.
    let made = sqlx::query_scalar!(
        r#"insert into notice_endpoints as e (account_id, url) values ($1, $2)
           on conflict (account_id) do update
           set url = excluded.url, state = 'active', disabled_reason = null, failing_since = null, updated_at = now(),
               lease_id = case when e.url = excluded.url then e.lease_id end,
               leased_until = case when e.url = excluded.url then e.leased_until end
           returning (xmax = 0) as "made!""#,
        account.0,
        url
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(|error| match violated(&error) {
        Some("notice_endpoints_account_id_fkey") => Error::UnknownAccount(account.to_string()),
        _ => Error::Database(error),
    })?;
    let secret = match made {
        true => Some(add_secret(&mut tx, account).await?),
        false => None,
    };
    let endpoint = read(&mut tx, account).await?;
    if changes {
        audit::record_of_account(
            &mut tx,
            admin,
            account,
            "notice_endpoint.set",
            json!({ "host": host(url) }),
        )
        .await?;
    }
    tx.commit().await?;
    info!(account.id = %account, by = %admin.by, "set a notice endpoint");
    Ok(IssuedEndpoint {
        endpoint,
        secret: secret.map(|secret| secret.reveal()),
    })
}

pub async fn show(admin: &Administration, account: AccountId) -> Result<Endpoint, Error> {
    read(&mut admin.db.begin().await?, account).await
}

/// Deletes an account's URL and secrets. Pending notices are not sent.
pub async fn remove(admin: &Administration, account: AccountId) -> Result<Endpoint, Error> {
    let mut tx = admin.db.begin().await?;
    lock(&mut tx, account).await?;
    let endpoint = read(&mut tx, account).await?;
    sqlx::query!("delete from notice_endpoints where account_id = $1", account.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!(
        "update notices set state = 'unaddressed', last_error = 'the endpoint was removed'
         where account_id = $1 and state = 'pending'",
        account.0
    )
    .execute(&mut *tx)
    .await?;
    let details = json!({ "host": host(&endpoint.url) });
    audit::record_of_account(&mut tx, admin, account, "notice_endpoint.remove", details).await?;
    tx.commit().await?;
    info!(account.id = %account, by = %admin.by, "removed a notice endpoint");
    Ok(endpoint)
}

/// Creates a new secret. During the overlap both secrets sign notices.
pub async fn rotate(
    admin: &Administration,
    account: AccountId,
    rotation: SecretRotation,
    now: i64,
) -> Result<IssuedEndpoint, Error> {
    let overlap = rotation.overlap_hours.unwrap_or(OVERLAP_HOURS).get();
    let mut tx = admin.db.begin().await?;
    lock(&mut tx, account).await?;
    sqlx::query!(
        "update notice_secrets set expires_at = $2 where account_id = $1 and expires_at is null",
        account.0,
        instant(now + overlap * 3_600)
    )
    .execute(&mut *tx)
    .await?;
    let secret = add_secret(&mut tx, account).await?;
    sqlx::query!(
        "delete from notice_secrets where account_id = $1
         and (expires_at <= $2 or id not in
              (select id from notice_secrets where account_id = $1 order by id desc limit $3))",
        account.0,
        instant(now),
        SECRETS_MAX
    )
    .execute(&mut *tx)
    .await?;
    let endpoint = read(&mut tx, account).await?;
    let details = json!({ "overlap_hours": overlap });
    audit::record_of_account(&mut tx, admin, account, "notice_secret.rotate", details).await?;
    tx.commit().await?;
    info!(account.id = %account, overlap_hours = overlap, by = %admin.by, "rotated a notice secret");
    Ok(IssuedEndpoint {
        endpoint,
        secret: Some(secret.reveal()),
    })
}

/// Locks the endpoint before its notices change. Returns whether the endpoint is active.
pub async fn lock(tx: &mut Transaction<'_, Postgres>, account: AccountId) -> Result<bool, Error> {
    let state = sqlx::query_scalar!(
        "select state from notice_endpoints where account_id = $1 for update",
        account.0
    )
    .fetch_optional(&mut **tx)
    .await?;
    match state {
        Some(state) => Ok(state == "active"),
        None => Err(missing(tx, account).await),
    }
}

/// Why the account has no endpoint.
async fn missing(tx: &mut Transaction<'_, Postgres>, account: AccountId) -> Error {
    let known = sqlx::query_scalar!("select id from accounts where id = $1", account.0);
    match known.fetch_optional(&mut **tx).await {
        Ok(Some(_)) => Error::NoNoticeEndpoint(account.to_string()),
        Ok(None) => Error::UnknownAccount(account.to_string()),
        Err(error) => error.into(),
    }
}

/// Checks a URL for notices. The error states the rule that the URL breaks.
pub fn checked_url(url: &str, policy: Policy) -> Result<Uri, String> {
    let not_a_url = || "must be a URL such as https://example.com/usage".to_owned();
    if url.len() > URL_BYTES_MAX {
        return Err(format!("must have at most {URL_BYTES_MAX} bytes"));
    }
    // The parser drops a fragment, so the customer would never receive it.
    let uri: Uri = match url.contains('#') {
        true => return Err(not_a_url()),
        false => url.parse().map_err(|_| not_a_url())?,
    };
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => {}
        Some(scheme) if *scheme == Scheme::HTTP && policy.allow_http => {}
        Some(scheme) if *scheme == Scheme::HTTP => return Err("must begin with https://".to_owned()),
        _ => return Err(not_a_url()),
    }
    let authority = uri.authority().ok_or_else(not_a_url)?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err("must have a host, and no user name or password".to_owned());
    }
    // Without this check, a port that is no number would silently be the default one.
    let has_port = authority.as_str().len() > authority.host().len();
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("must have a port from 1 to 65535".to_owned());
    }
    if connector::is_broken_address(&uri) {
        return Err("must have a host that is a name or an address".to_owned());
    }
    if !policy.allow_private && connector::is_local(&uri) {
        return Err("cannot be used: the host is the machine of the service itself".to_owned());
    }
    // Checks a literal address now, to report the problem early. A name is resolved for each delivery.
    match connector::literal(&uri).and_then(connector::refusal) {
        Some(refusal) if !policy.allow_private => Err(format!("cannot be used: {refusal}")),
        _ => Ok(uri),
    }
}

/// Returns the host for the log. The URL itself may contain a token of the customer.
fn host(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    uri.and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default()
}

async fn add_secret(tx: &mut Transaction<'_, Postgres>, account: AccountId) -> Result<Secret, Error> {
    let secret = Secret::generate();
    sqlx::query!(
        "insert into notice_secrets (id, account_id, secret) values ($1, $2, $3)",
        Uuid::now_v7(),
        account.0,
        secret.as_bytes()
    )
    .execute(&mut **tx)
    .await?;
    Ok(secret)
}

async fn read(tx: &mut Transaction<'_, Postgres>, account: AccountId) -> Result<Endpoint, Error> {
    let row = sqlx::query!(
        "select url, state, disabled_reason, failing_since, created_at, updated_at
         from notice_endpoints where account_id = $1",
        account.0
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else {
        return Err(missing(tx, account).await);
    };
    let secrets = sqlx::query_as!(
        SecretInUse,
        "select id, created_at, expires_at from notice_secrets
         where account_id = $1 and (expires_at is null or expires_at > now()) order by id desc",
        account.0
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(Endpoint {
        account_id: account,
        url: row.url,
        state: row.state,
        disabled_reason: row.disabled_reason,
        failing_since: row.failing_since,
        secrets,
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_that_can_receive_notices_are_accepted() {
        let careful = Policy::default();
        for good in [
            "https://example.com",
            "https://example.com:8443/usage?token=a",
            "https://8.8.8.8/",
            "https://134744072/",
            "https://1e100.net/",
            "https://localhost.example.com/",
            "https://[2606:4700::1]/",
        ] {
            assert!(checked_url(good, careful).is_ok(), "{good}");
        }
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        for bad in [
            "",
            "example.com",
            "/usage",
            "ftp://example.com",
            "http://example.com",
            "https://",
            "https://u:p@example.com",
            "https://example.com/#here",
            "https://exämple.com",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://api.localhost:8443/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://10.1.:443/",
            "https://1.2.3.4.5/",
            "https://example.com:99999/",
            "https://example.com:0/",
            "https://example.com:/",
            &long,
        ] {
            assert!(checked_url(bad, careful).is_err(), "{bad}");
        }
        let open = Policy {
            allow_http: true,
            allow_private: true,
        };
        assert!(checked_url("http://127.0.0.1:9/", open).is_ok());
        assert!(checked_url("ftp://127.0.0.1/", open).is_err());
    }
}

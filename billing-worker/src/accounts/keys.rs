//! API keys: create, list, revoke, rotate, change the scopes. The text of a key is only in the response to its creation.

mod scopes;

use problem::json::Integer;
use schema::{AccountId, KeyId, Scope, Scopes, announcement::Announcement, api_key::ApiKey, period::instant};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgExecutor, Postgres, Transaction};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::info;
use uuid::Uuid;

use crate::{
    accounts::identity::checked_name,
    administration::{
        Administration, audit,
        page::{Listed, Page},
    },
    error::{Error, violated},
};

pub use scopes::{ScopeChange, change_scopes};

/// At most one year. A longer overlap would not be a rotation.
pub type OverlapHours = Integer<0, 8_760>;
/// At most ten years.
pub type ExpiresInDays = Integer<1, 3_650>;

pub const OVERLAP_HOURS: OverlapHours = OverlapHours::new(24).expect("24 is in its bounds");

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// `None`: "default".
    pub name: Option<String>,
    /// `None`: never.
    pub expires_in_days: Option<ExpiresInDays>,
    /// `None`: only `usage`.
    pub scopes: Option<Vec<Scope>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Hours until the old key stops working; `None`: [`OVERLAP_HOURS`].
    pub overlap_hours: Option<OverlapHours>,
    /// When the new key expires; `None`: never.
    pub expires_in_days: Option<ExpiresInDays>,
}

/// A key without its text.
#[derive(Clone, Debug, Serialize)]
pub struct Key {
    pub id: KeyId,
    pub account_id: AccountId,
    pub name: String,
    pub status: KeyStatus,
    pub scopes: Scopes,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    Active,
    Expired,
    Revoked,
}

/// A new key with its text. No `Debug`, so that no log can contain the text.
#[derive(Serialize)]
pub struct IssuedKey {
    #[serde(flatten)]
    pub about: Key,
    /// `tr_live_…`
    pub key: String,
}

/// The new key, and the old key that it replaces.
#[derive(Serialize)]
pub struct RotatedKey {
    #[serde(flatten)]
    pub issued: IssuedKey,
    pub replaces: Key,
}

pub async fn create(admin: &Administration, account: AccountId, new: NewKey, now: i64) -> Result<IssuedKey, Error> {
    let name = checked_name("name", new.name.as_deref().unwrap_or("default"))?;
    let expires_at = expiry(new.expires_in_days, now);
    let scopes = scopes::of_new_key(new.scopes)?;
    let mut tx = admin.db.begin().await?;
    let issued = insert(&mut *tx, account, name, scopes, expires_at, now).await?;
    let key_id = issued.about.id;
    record(
        &mut tx,
        admin,
        "key.create",
        &issued.about,
        json!({ "name": name, "expires_at": expiry_text(expires_at), "scopes": scopes }),
    )
    .await?;
    tx.commit().await?;
    info!(account.id = %account, key.id = %key_id, %scopes, by = %admin.by, "created an API key");
    announce(admin, &[&issued.about]).await;
    Ok(issued)
}

/// Lists an account's keys, oldest first.
pub async fn list(admin: &Administration, account: AccountId, page: Page, now: i64) -> Result<Listed<Key>, Error> {
    let known = sqlx::query_scalar!("select id from accounts where id = $1", account.0);
    if known.fetch_optional(&admin.db).await?.is_none() {
        return Err(Error::UnknownAccount(account.to_string()));
    }
    // Key ids are random: they only order keys of the same microsecond.
    let rows = sqlx::query_as!(
        Row,
        "select id, account_id, name, scopes, created_at, expires_at, revoked_at from api_keys
         where account_id = $1
           and ($2::uuid is null or (created_at, id) > (select created_at, id from api_keys where id = $2))
         order by created_at, id limit $3",
        account.0,
        page.after,
        page.rows()
    )
    .fetch_all(&admin.db)
    .await?;
    Ok(page.cut(rows.into_iter().map(|row| row.at(now)).collect(), |key: &Key| key.id.0))
}

/// Revokes a key permanently. A revoked key stays unchanged.
pub async fn revoke(admin: &Administration, id: KeyId, now: i64) -> Result<Key, Error> {
    let mut tx = admin.db.begin().await?;
    let before = sqlx::query_scalar!("select revoked_at from api_keys where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| Error::UnknownKey(id.to_string()))?;
    let key = sqlx::query_as!(
        Row,
        "update api_keys set revoked_at = coalesce(revoked_at, now()) where id = $1
         returning id, account_id, name, scopes, created_at, expires_at, revoked_at",
        id.0
    )
    .fetch_one(&mut *tx)
    .await?
    .at(now);
    if before.is_none() {
        record(&mut tx, admin, "key.revoke", &key, json!({ "name": key.name })).await?;
    }
    tx.commit().await?;
    info!(account.id = %key.account_id, key.id = %id, by = %admin.by, "revoked an API key");
    announce(admin, &[&key]).await;
    Ok(key)
}

/// Creates a key with the name and the scopes of the old one. The old key expires after the overlap.
pub async fn rotate(admin: &Administration, id: KeyId, rotation: Rotation, now: i64) -> Result<RotatedKey, Error> {
    let overlap = rotation.overlap_hours.unwrap_or(OVERLAP_HOURS).get();
    let expires_at = expiry(rotation.expires_in_days, now);
    let mut tx = admin.db.begin().await?;
    let old = lock_active(&mut tx, id, now).await?;
    let issued = insert(&mut *tx, old.account_id, &old.name, old.scopes, expires_at, now).await?;
    let replaces = sqlx::query_as!(
        Row,
        "update api_keys set expires_at = least(expires_at, $2) where id = $1
         returning id, account_id, name, scopes, created_at, expires_at, revoked_at",
        id.0,
        instant(now + overlap * 3_600)
    )
    .fetch_one(&mut *tx)
    .await?
    .at(now);
    let details = json!({ "replaces": id, "overlap_hours": overlap, "expires_at": expiry_text(expires_at) });
    record(&mut tx, admin, "key.rotate", &issued.about, details).await?;
    tx.commit().await?;
    info!(
        account.id = %old.account_id, key.id = %issued.about.id, replaces = %id, overlap_hours = overlap, by = %admin.by,
        "rotated an API key"
    );
    announce(admin, &[&issued.about, &replaces]).await;
    Ok(RotatedKey { issued, replaces })
}

impl KeyStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Locks a key until the end of the transaction. An expired or revoked key gives no access, so it cannot be replaced or changed.
async fn lock_active(tx: &mut Transaction<'_, Postgres>, id: KeyId, now: i64) -> Result<Key, Error> {
    let key = sqlx::query_as!(
        Row,
        "select id, account_id, name, scopes, created_at, expires_at, revoked_at from api_keys where id = $1 for update",
        id.0
    )
    .fetch_optional(&mut **tx)
    .await?
    .ok_or_else(|| Error::UnknownKey(id.to_string()))?
    .at(now);
    match key.status {
        KeyStatus::Active => Ok(key),
        status => Err(Error::KeyEnded {
            key: id.to_string(),
            state: status.as_str(),
        }),
    }
}

async fn insert(
    db: impl PgExecutor<'_>,
    account: AccountId,
    name: &str,
    scopes: Scopes,
    expires_at: Option<OffsetDateTime>,
    now: i64,
) -> Result<IssuedKey, Error> {
    let api_key = ApiKey::generate();
    let hash = api_key.hash();
    let row = sqlx::query_as!(
        Row,
        "insert into api_keys (id, account_id, secret_sha256, name, expires_at, scopes) values ($1, $2, $3, $4, $5, $6)
         returning id, account_id, name, scopes, created_at, expires_at, revoked_at",
        api_key.id().0,
        account.0,
        hash.as_bytes(),
        name,
        expires_at,
        &scopes.to_stored()
    )
    .fetch_one(db)
    .await
    .map_err(|error| match violated(&error) {
        Some("api_keys_account_id_fkey") => Error::UnknownAccount(account.to_string()),
        _ => Error::Database(error),
    })?;
    Ok(IssuedKey {
        about: row.at(now),
        key: api_key.reveal().to_owned(),
    })
}

async fn record(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    action: &'static str,
    key: &Key,
    details: Value,
) -> Result<(), Error> {
    let entry = audit::Entry {
        action,
        account: Some(key.account_id),
        subject: key.id.to_string(),
        details,
        actor: admin.actor(),
    };
    audit::record(tx, entry).await
}

/// Announces new keys as well: a gateway may have cached that the id is unknown.
async fn announce(admin: &Administration, keys: &[&Key]) {
    let announcement = |key: &&Key| Announcement::KeyChanged {
        key_id: key.id,
        account_id: key.account_id,
    };
    let announcements: Vec<_> = keys.iter().map(announcement).collect();
    admin.announcer.announce_all(&announcements).await;
}

fn expiry(in_days: Option<ExpiresInDays>, now: i64) -> Option<OffsetDateTime> {
    in_days.map(|days| instant(now + days.get() * 86_400))
}

fn expiry_text(at: Option<OffsetDateTime>) -> Option<String> {
    at.and_then(|at| at.format(&Rfc3339).ok())
}

struct Row {
    id: Uuid,
    account_id: Uuid,
    name: String,
    scopes: Vec<String>,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    revoked_at: Option<OffsetDateTime>,
}

impl Row {
    fn at(self, now: i64) -> Key {
        let status = match (self.revoked_at, self.expires_at) {
            (Some(_), _) => KeyStatus::Revoked,
            (None, Some(at)) if at <= instant(now) => KeyStatus::Expired,
            (None, _) => KeyStatus::Active,
        };
        Key {
            id: KeyId(self.id),
            account_id: AccountId(self.account_id),
            name: self.name,
            status,
            scopes: Scopes::from_stored(&self.scopes),
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ends_when_it_expires_or_is_revoked() {
        let row = |expires_at: Option<i64>, revoked_at: Option<i64>| Row {
            id: Uuid::nil(),
            account_id: Uuid::nil(),
            name: "k".into(),
            scopes: Vec::new(),
            created_at: instant(0),
            expires_at: expires_at.map(instant),
            revoked_at: revoked_at.map(instant),
        };
        for (expires_at, revoked_at, status) in [
            (None, None, KeyStatus::Active),
            (Some(101), None, KeyStatus::Active),
            (Some(100), None, KeyStatus::Expired),
            (Some(101), Some(50), KeyStatus::Revoked),
            (Some(50), Some(60), KeyStatus::Revoked),
        ] {
            assert_eq!(row(expires_at, revoked_at).at(100).status, status);
        }
    }

    #[test]
    fn days_to_the_expiry_are_bounded() {
        assert_eq!(expiry(ExpiresInDays::new(1), 0), Some(instant(86_400)));
        assert_eq!(expiry(None, 0), None);
        for days in [-1, 0, 3_651, i64::MAX] {
            assert_eq!(ExpiresInDays::new(days), None);
        }
    }
}

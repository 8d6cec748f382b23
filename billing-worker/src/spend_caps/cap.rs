//! A spend cap: set, remove, show.

use problem::json::Integer;
use quota_store::caps;
use schema::{AccountId, announcement::Announcement, period::instant};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use time::OffsetDateTime;
use tracing::info;

use super::used::{self, Used};
use crate::{
    accounts::lock,
    administration::{Administration, audit},
    error::Error,
    subscriptions::currency,
};

/// The largest amount that Stripe accepts on an invoice.
const CENTS_MAX: i64 = 999_999_999_999;

/// In the smallest unit of the currency.
pub type Cents = Integer<0, CENTS_MAX>;

/// A cap, as the APIs take it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCap {
    pub cents: Cents,
}

/// An account's cap, and what it limits.
#[derive(Clone, Debug, Serialize)]
pub struct SpendCap {
    /// The most that the usage of a period may cost, in the smallest unit of the currency, before discounts and tax. Null: there is
    /// no cap.
    pub cents: Option<i64>,
    /// Of these amounts: what the account pays in, or would pay in by default.
    pub currency: String,
    /// What the usage of the running period costs so far.
    pub used_cents: i64,
    /// Since when no call passes the cap. Null: there is none, or some gateways do not know it yet.
    #[serde(with = "time::serde::rfc3339::option")]
    pub in_force_since: Option<OffsetDateTime>,
    /// The end of the running period.
    #[serde(with = "time::serde::rfc3339")]
    pub resets_at: OffsetDateTime,
    /// The usage types that the account pays for now. The cap limits these.
    pub usage_types: Vec<String>,
}

pub async fn show(admin: &Administration, account: AccountId, now: i64) -> Result<SpendCap, Error> {
    let used = used::read(admin, account, now).await?;
    of(&admin.db, account, &used).await
}

/// The same, if the account has a cap.
pub async fn find(admin: &Administration, account: AccountId, now: i64) -> Result<Option<SpendCap>, Error> {
    let has_cap = sqlx::query_scalar!(
        r#"select exists (select from spend_caps where account_id = $1) as "has!""#,
        account.0
    );
    match has_cap.fetch_one(&admin.db).await? {
        true => show(admin, account, now).await.map(Some),
        false => Ok(None),
    }
}

/// Sets a cap. Refused if the usage of the running period costs more already.
pub async fn set(admin: &Administration, account: AccountId, new: NewCap, now: i64) -> Result<(), Error> {
    let cents = new.cents.get();
    // Before the transaction: it asks ClickHouse.
    let used = used::read(admin, account, now).await?;
    let used_cents = used.cents();
    if cents < used_cents {
        return Err(Error::SpendCapBelowUsage { cents, used_cents });
    }
    let unleased = used::unleased(admin, account, &used).await?;
    let mut tx = admin.db.begin().await?;
    lock(&mut tx, account).await?;
    let before = caps::lock(&mut tx, &[account]).await?.get(&account).copied();
    if before == Some(cents) {
        return Ok(());
    }
    // All gateways take leases already, if an earlier cap is armed. A lower cap holds once they gave back what they hold.
    let revision = sqlx::query_scalar!(
        "insert into spend_caps as c (account_id, cents, set_by) values ($1, $2, $3)
         on conflict (account_id) do update set cents = excluded.cents, set_by = excluded.set_by, set_at = now(),
             revision = excluded.revision, armed_at = case when c.cents <= excluded.cents then c.armed_at end
         returning revision",
        account.0,
        cents,
        admin.by.to_string()
    )
    .fetch_one(&mut *tx)
    .await?;
    if before.is_none() {
        caps::count(&mut tx, account, used.period, &unleased).await?;
    }
    let details = json!({ "cents": cents, "before": before, "used_cents": used_cents });
    audit::record_of_account(&mut tx, admin, account, "spend_cap.set", details).await?;
    tx.commit().await?;
    info!(account.id = %account, cents, revision, by = %admin.by, "set a spend cap");
    announce(admin, account).await;
    Ok(())
}

/// Removes the cap: from then on only the limits of the plan apply.
pub async fn remove(admin: &Administration, account: AccountId) -> Result<(), Error> {
    let mut tx = admin.db.begin().await?;
    lock(&mut tx, account).await?;
    let removed = sqlx::query_scalar!(
        "delete from spend_caps where account_id = $1 returning cents",
        account.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(cents) = removed else {
        return Ok(());
    };
    audit::record_of_account(&mut tx, admin, account, "spend_cap.remove", json!({ "before": cents })).await?;
    tx.commit().await?;
    info!(account.id = %account, by = %admin.by, "removed a spend cap");
    announce(admin, account).await;
    Ok(())
}

async fn of(db: &PgPool, account: AccountId, used: &Used) -> Result<SpendCap, Error> {
    let row = sqlx::query!(
        "select cents, armed_at from spend_caps where account_id = $1",
        account.0
    )
    .fetch_optional(db)
    .await?;
    Ok(SpendCap {
        cents: row.as_ref().map(|row| row.cents),
        currency: currency::of_account(db, account).await?,
        used_cents: used.cents(),
        in_force_since: row.and_then(|row| row.armed_at),
        resets_at: instant(used.period.end),
        usage_types: used.usage_types(),
    })
}

async fn announce(admin: &Administration, account: AccountId) {
    let changed = Announcement::AccountChanged { account_id: account };
    admin.announcer.announce(changed).await;
}
